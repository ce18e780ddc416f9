"""From files to batches: what is found, what is decoded, who plays what, and what is wrong with a file."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import Chunk, ClipPlayer, Job
from coordinator.video.decoding.reader import CHUNK, read
from coordinator.video.files.clips import Clip, Clips, find
from coordinator.video.files.play_order import ShuffledOrder
from coordinator.video.slots import Slots
from coordinator.video.targets import Batch
from tests.support.settings import config_of
from tests.support.videos import write_clip


def frames_of(path: Path, stride: int = 1, short_side: int = 20, channels: int = 3) -> np.ndarray:
    return np.concatenate(list(read(path, stride, short_side, channels)))


def clip_of(path: Path) -> Clip:
    return Clip(path, 0, 1)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("mov", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")],
)
def test_every_container_is_found_and_decoded(tmp_path: Path, suffix: str, codec: str) -> None:
    write_clip(tmp_path / "a" / f"x.{suffix}", 20, codec=codec)
    clips = find(tmp_path, "*", 1)
    assert abs(clips.clips[0].frames - 20) <= 1
    frames = frames_of(clips.clips[0].path)
    assert frames.shape == (20, 3, 20, 24)
    assert frames.max() > 180
    assert frames[0].min() < 140


def test_stride_size_and_grey(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 3 * CHUNK + 1)
    every = frames_of(path)
    assert np.array_equal(frames_of(path, stride=3), every[::3])
    assert frames_of(path, short_side=10, channels=1).shape == (3 * CHUNK + 1, 1, 10, 12)


def test_folders_are_classes_in_alphabetical_order(videos: Path) -> None:
    clips = find(videos / "train", "*", 1)
    assert clips.classes == ["ant", "bee", "cat"]
    assert [clip.label for clip in clips.clips] == [0] * 3 + [1] * 3 + [2] * 3
    assert [clip.frames for clip in clips.clips] == [5, 17, 31, 8, 23, 40, 12, 9, 26]
    assert find(videos / "train", "*", 4).clips[2].frames == 8
    assert find(videos / "train", "bee/*", 1).classes == ["bee"]


def test_without_labels_any_layout_does(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4", 3)
    write_clip(tmp_path / "deep" / "er" / "y.mp4", 3)
    clips = find(tmp_path, "*", 1, labelled=False)
    assert (len(clips.clips), clips.classes) == (2, ["video"])


def spoil(folder: Path) -> None:
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "empty.mp4").touch()
    (folder / "a" / "noise.mp4").write_bytes(bytes(range(256)) * 40)


def test_unreadable_files_are_left_out_with_their_reason(tmp_path: Path) -> None:
    write_clip(tmp_path / "a" / "good.mp4", 9)
    spoil(tmp_path)
    clips = find(tmp_path, "*", 1)
    assert [clip.path.name for clip in clips.clips] == ["good.mp4"]
    assert {path.name for path in clips.bad} == {"empty.mp4", "noise.mp4"}
    warnings = "\n".join(clips.warnings(mismatch=8))
    assert "the file is empty" in warnings
    assert "noise.mp4 cannot be read" in warnings
    assert "only one clip" in warnings
    assert "at most 8 frames" not in warnings
    assert "1 of 1 clips" in "\n".join(clips.warnings(mismatch=9))


@pytest.mark.parametrize("case", ["missing", "no videos", "all bad", "pattern", "flat"])
def test_a_folder_that_cannot_serve_is_told(tmp_path: Path, case: str) -> None:
    if case == "all bad":
        spoil(tmp_path)
    if case in ("pattern", "flat"):
        write_clip(tmp_path / ("a" if case == "pattern" else "") / "x.mp4", 3)
    (tmp_path / "b").mkdir()
    root, include = tmp_path / "nowhere" if case == "missing" else tmp_path, "z*" if case == "pattern" else "*"
    said = {"missing": "there is no folder", "all bad": "none of the 2 videos", "pattern": "matching 'z"}
    with pytest.raises(DataError, match=said.get(case, "no videos in")):
        find(root, include, 1)


def test_validation_classes_must_be_known(videos: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "dog" / "x.mp4", 3)
    with pytest.raises(DataError, match="classes that the training folder lacks: dog"):
        find(tmp_path, "*", 1, classes=["ant", "bee", "cat"])


def play(
    videos: Path, ticks: int, threads: int = 2, **changes: object
) -> list[tuple[np.ndarray, list[int], list[int]]]:
    config = config_of(videos, data__threads=threads, **changes)
    assert config.data.train is not None
    clips = find(config.data.train, "*", config.data.stride)
    slots, batch = Slots(clips.clips, config.data, config.seed, train=True), Batch(config.frame_shape)
    played = []
    for _ in range(ticks):
        assert slots.fill(batch.frames, batch.clips, batch.labels)
        played.append((batch.frames.copy(), batch.clips.tolist(), batch.labels.tolist()))
    slots.close()
    return played


def test_the_order_depends_on_the_seed_alone(videos: Path) -> None:
    first, again, other = play(videos, 120), play(videos, 120, threads=5), play(videos, 120, seed=4)
    assert all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_slots_play_clips_whole_and_back_to_back(videos: Path) -> None:
    config = config_of(videos)
    assert config.data.train is not None
    clips = find(config.data.train, "*", 1).clips
    order = ShuffledOrder(clips, config.seed, endless=True)
    played = play(videos, 150)
    for row in range(3):
        ids = [tick[1][row] for tick in played]
        runs = [ids.count(number) for number in dict.fromkeys(ids)]
        assert list(dict.fromkeys(ids)) == [row + 3 * n for n in range(len(runs))]
        expected = [order.entry(number) for number in dict.fromkeys(ids)]
        assert runs[:-1] == [clip.frames for clip in expected if clip][:-1]
        labels = {number: clip.label for number, clip in zip(dict.fromkeys(ids), expected, strict=True) if clip}
        assert [tick[2][row] for tick in played] == [labels[number] for number in ids]


def test_every_epoch_plays_every_clip_once(videos: Path) -> None:
    clips = find(videos / "train", "*", 1).clips
    order = ShuffledOrder(clips, 5, endless=True)
    epochs = [[order.entry(9 * epoch + n) for n in range(9)] for epoch in range(3)]
    assert all({clip.path for clip in epoch if clip} == {clip.path for clip in clips} for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_crop_and_flip_are_drawn_once_a_clip(tmp_path: Path) -> None:
    """Two decodings of a clip of one still picture: all its frames are cut alike, the next playing is cut otherwise."""
    path = write_clip(tmp_path / "a" / "still.mp4", 37, size=(64, 64), seed=1)
    config = config_of(tmp_path, data__resize=64, data__slots=1, data__stride=1, data__size=16)
    picture = frames_of(path, short_side=64)
    slots = Slots([Clip(path, 0, 1)], config.data, 0, train=True)
    batch, places = Batch(config.frame_shape), []
    for tick in range(4 * len(picture)):
        slots.fill(batch.frames, batch.clips, batch.labels)
        places.append(_place(picture[tick % len(picture)], batch.frames[0]))
    slots.close()
    by_clip = [set(places[n * len(picture) : (n + 1) * len(picture)]) for n in range(4)]
    shared = [set.intersection(*[set(options) for options in clip]) for clip in by_clip]
    assert all(len(cut) >= 1 for cut in shared)  # one place explains every frame of the playing
    assert len({min(cut) for cut in shared}) > 1


def _place(picture: np.ndarray, crop: np.ndarray) -> frozenset[tuple[int, int, bool]]:
    size = crop.shape[-1]
    spots = picture.shape[-1] - size + 1
    return frozenset(
        (y, x, flipped)
        for flipped, view in ((False, crop), (True, crop[:, :, ::-1]))
        for y in range(spots)
        for x in range(spots)
        if np.array_equal(picture[:, y : y + size, x : x + size], view)
    )


def test_evaluation_plays_every_frame_once_and_marks_empty_rows(videos: Path) -> None:
    config = config_of(videos, data__flip=1.0)
    clips = find(videos / "val", "*", 1).clips
    slots, batch = Slots(clips, config.data, 0, train=False), Batch(config.frame_shape)
    seen: dict[int, int] = {}
    while slots.fill(batch.frames, batch.clips, batch.labels):
        for row, number in enumerate(batch.clips.tolist()):
            if number < 0:
                assert batch.labels[row] == -1
                assert not batch.frames[row].any()
                continue
            frame = frames_of(clips[number].path, short_side=16)[seen.get(number, 0)]
            left = (frame.shape[-1] - 16) // 2
            assert np.array_equal(batch.frames[row], frame[:, :, left : left + 16])
            seen[number] = seen.get(number, 0) + 1
    slots.close()
    assert seen == {number: clip.frames for number, clip in enumerate(clips)}


def test_broken_clips_are_skipped_and_counted(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "a" / "good.mp4", 12)
    bad = tmp_path / "a" / "bad.mp4"
    bad.write_bytes(b"no video at all")
    config = config_of(tmp_path, data__slots=2)
    clips = [clip_of(bad), clip_of(good), clip_of(bad)]
    slots, batch = Slots(clips, config.data, 0, train=True, mismatch=15), Batch(config.frame_shape)
    for _ in range(60):
        assert slots.fill(batch.frames, batch.clips, batch.labels)
        assert batch.frames.any()
    slots.close()
    assert slots.errors.skipped >= 4
    assert slots.errors.short >= 4
    assert "bad.mp4" in slots.errors.reasons[0]


def test_a_clip_that_breaks_off_is_played_so_far(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.avi", 300, size=(64, 48), codec="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    config = config_of(tmp_path, data__slots=1)
    slots, batch = Slots([clip_of(path)], config.data, 0, train=False), Batch(config.frame_shape)
    played = 0
    while slots.fill(batch.frames, batch.clips, batch.labels):
        played += 1
    slots.close()
    assert 50 < played < 300


def test_when_nothing_can_be_decoded_the_run_ends_with_a_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    config = config_of(tmp_path, data__slots=2)
    slots, batch = Slots([clip_of(bad)] * 5, config.data, 0, train=True), Batch(config.frame_shape)
    with pytest.raises(DataError, match="not one of the 1 clips can be decoded"):
        slots.fill(batch.frames, batch.clips, batch.labels)
    slots.close()


def test_warnings_name_classes_without_clips(tmp_path: Path) -> None:
    clips = Clips(tmp_path, ["a", "b"], [Clip(tmp_path / "x", 0, 9)] * 2)
    assert any("no readable clip" in text and "b" in text for text in clips.warnings(0))


@pytest.mark.parametrize("held", [1, 5 * 24 * 20])
def test_large_frames_are_converted_a_few_at_a_time(videos: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """However few decoded frames may be held, chunks and what is in them are the same."""
    config = config_of(videos, data__flip=1.0)
    clip = next(clip for clip in find(videos / "train", "*", 1).clips if clip.frames == 40)
    room = np.zeros((16, *config.frame_shape[1:]), np.uint8)

    def played() -> list[tuple[Chunk, bytes]]:
        chunks = ClipPlayer(Job([clip], config.data, 3, train=True), lambda *_: None).chunks(0, 0, lambda: room)
        return [(chunk, room[: chunk.frames].tobytes()) for chunk in islice(chunks, 6)]

    expected = played()
    assert [chunk.frames for chunk, _ in expected] == [16, 16, 8] * 2
    monkeypatch.setattr("coordinator.video.decoding.clip_writer._HELD", held)
    assert played() == expected
