"""Slots: which clips they play, in which order, and what they do with broken ones."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.shared_memory.frame_memory import IN_USE
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.augment import Augment
from coordinator.video.files.clips import Clip, find
from coordinator.video.files.play_order import ShuffledOrder
from coordinator.video.slots import Slots
from tests.support.settings import config_of
from tests.support.videos import frames_of, write_clip


def clip_of(path: Path) -> Clip:
    return Clip(path, 0, 1)


def play(
    videos: Path, ticks: int, threads: int = 2, **changes: object
) -> list[tuple[np.ndarray, list[int], list[int]]]:
    config = config_of(videos, data__threads=threads, **changes)
    assert config.data.train is not None
    clips = find(config.data.train, "*", config.data.stride)
    slots, batch = Slots(Job(clips.clips, config.data, config.seed, train=True)), Batch(config.frame_shape)
    played = []
    for _ in range(ticks):
        assert slots.fill(batch)
        played.append((batch.frames.copy(), batch.clips.tolist(), batch.labels.tolist()))
    slots.close()
    return played


def test_the_order_depends_only_on_the_seed(videos: Path) -> None:
    first, again, other = play(videos, 120), play(videos, 120, threads=5), play(videos, 120, seed=4)
    assert all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_a_share_of_the_slots_plays_what_it_plays_among_all(videos: Path) -> None:
    config = config_of(videos, data__slots=6)
    clips = find(videos / "train", "*", 1).clips
    whole = Slots(Job(clips, config.data, config.seed, train=True))
    shares = [Slots(Job(clips, config.data, config.seed, train=True, share=range(n, n + 3))) for n in (0, 3)]
    batch, parts = Batch(config.frame_shape), [Batch((3, 3, 16, 16)), Batch((3, 3, 16, 16))]
    for tick in range(120):
        if tick == 50:  # a share goes on from its places
            places = shares[1].places()
            shares[1].close()
            shares[1] = Slots(Job(clips, config.data, config.seed, train=True, share=range(3, 6)), start=places)
        whole.fill(batch)
        for number, (share, part) in enumerate(zip(shares, parts, strict=True)):
            share.fill(part)
            expected = batch.share(number, 2)
            assert np.array_equal(part.frames, expected.frames)
            assert np.array_equal(part.clips, expected.clips)
            assert np.array_equal(part.labels, expected.labels)
        assert whole.places() == [*shares[0].places(), *shares[1].places()]
    for stream in (whole, *shares):
        stream.close()


def test_batches_stay_as_they_are_while_they_may_be_in_use(videos: Path) -> None:
    """Even when the decoders have just decoded all that they may."""
    config = config_of(videos, data__size=224, data__slots=6, data__channels=1)  # so that chunks are short
    clips = find(videos / "train", "*", 1).clips
    slots = Slots(Job(clips, config.data, 0, train=True, ahead=3))
    kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=IN_USE + 3 + 1)
    end = 0
    for tick in range(300):
        batch = Batch(config.frame_shape)
        assert slots.fill(batch)
        kept.append((batch.frames, batch.frames.copy()))
        if end < slots._ring.decodable_until(tick):
            end = slots._ring.decodable_until(tick)
            for slot in range(6):
                while slots._decoded[slot] < end:
                    slots._pool.receive(slot)
            assert all(np.array_equal(frames, copy) for frames, copy in kept)
    slots.close()


def test_colours_left_to_the_first_stage_are_those_that_the_decoders_would_have_taken(videos: Path) -> None:
    """Also of those drawn after the crop, so that all else is the same."""
    changes = {"data__brightness": 0.4, "data__saturation": 0.4, "data__scale": (0.3, 0.9)}
    config = config_of(videos, **changes)
    clips = find(videos / "train", "*", 1).clips
    later = config.data.model_copy(update={"jitter": "stages"})
    assert (config.data.computes, config.data.jittered_later, later.jittered_later) == (True, False, True)
    streams = [Slots(Job(clips, data, 3, train=True)) for data in (config.data, later)]
    now, after = Batch(config.frame_shape), Batch(config.frame_shape)
    for _ in range(80):
        assert streams[0].fill(now)
        assert streams[1].fill(after)
        assert now.colours is None
        assert after.colours is not None
        for expected, frame, colours in zip(now.frames, after.frames, after.colours, strict=True):
            jitter = Augment(0, 0, *config.data.shape, config.data.shape, False, *colours)
            assert np.array_equal(jitter(frame[None])[0], expected)
    for stream in streams:
        stream.close()


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


def test_crop_and_flip_are_drawn_once_per_clip(tmp_path: Path) -> None:
    """On a clip of a still picture, all frames of a playing have one crop, and the next playing has another."""
    path = write_clip(tmp_path / "a" / "still.mp4", 37, size=(64, 64), seed=1)
    config = config_of(tmp_path, data__resize=64, data__slots=1, data__stride=1, data__size=16)
    picture = frames_of(path, short_side=64)
    slots = Slots(Job([Clip(path, 0, 1)], config.data, 0, train=True))
    batch, places = Batch(config.frame_shape), []
    for tick in range(4 * len(picture)):
        slots.fill(batch)
        places.append(_place(picture[tick % len(picture)], batch.frames[0]))
    slots.close()
    by_clip = [set(places[n * len(picture) : (n + 1) * len(picture)]) for n in range(4)]
    shared = [set.intersection(*[set(options) for options in clip]) for clip in by_clip]
    assert all(len(cut) >= 1 for cut in shared)  # one crop fits every frame of the playing
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
    slots, batch = Slots(Job(clips, config.data, 0, train=False)), Batch(config.frame_shape)
    seen: dict[int, int] = {}
    while slots.fill(batch):
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
    slots, batch = Slots(Job(clips, config.data, 0, train=True, mismatch=15)), Batch(config.frame_shape)
    for _ in range(60):
        assert slots.fill(batch)
        assert batch.frames.any()
    slots.close()
    assert slots.errors.skipped >= 4
    assert slots.errors.short >= 4
    assert "bad.mp4" in slots.errors.reasons[0]


def test_a_truncated_clip_is_played_up_to_its_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.avi", 300, size=(64, 48), codec="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    config = config_of(tmp_path, data__slots=1)
    slots, batch = Slots(Job([clip_of(path)], config.data, 0, train=False)), Batch(config.frame_shape)
    played = 0
    while slots.fill(batch):
        played += 1
    slots.close()
    assert 50 < played < 300


def test_when_no_clip_can_be_decoded_an_error_is_raised(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    config = config_of(tmp_path, data__slots=2)
    slots, batch = Slots(Job([clip_of(bad)] * 5, config.data, 0, train=True)), Batch(config.frame_shape)
    with pytest.raises(DataError, match="none of the 1 clips can be decoded"):
        slots.fill(batch)
    slots.close()


def test_a_stream_that_has_ended_plays_all_again_with_the_same_processes(videos: Path) -> None:
    config = config_of(videos, data__slots=4)
    slots, batch = (
        Slots(Job(find(videos / "train", "*", 1).clips, config.data, 0, train=False)),
        Batch(config.frame_shape),
    )

    def played() -> list[tuple[bytes, list[int], list[int]]]:
        found = []
        while slots.fill(batch):
            found.append((batch.frames.tobytes(), batch.clips.tolist(), batch.labels.tolist()))
        return found

    first, processes = played(), [worker.process for worker in slots._pool._workers]
    assert len(first) > 20
    slots.rewind()
    assert slots.places() == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert played() == first
    assert [worker.process for worker in slots._pool._workers] == processes
    processes[0].kill()  # while nobody waits for it
    processes[0].wait()
    slots.rewind()
    assert played() == first
    slots.close()
