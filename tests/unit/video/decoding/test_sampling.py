"""Which frames of a file are played and how they are cut: rates, windows, augmentation, turned and odd files, and
going on in the middle of it all.
"""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.decoder_pool.shared_ring import chunk_of
from coordinator.video.decoding.augment import draw
from coordinator.video.decoding.reader import read
from coordinator.video.decoding.scaler import Scaler
from coordinator.video.files.clips import Clip, collect, find
from coordinator.video.files.play_order import ShuffledOrder
from coordinator.video.slots import Slots
from coordinator.video.targets import Batch
from tests.support.videos import video_stream, write_clip

Array = np.ndarray[Any, Any]
CHUNK = chunk_of(Data(train=Path(), slots=2, size=16))


def write_levels(
    path: Path, times: list[int], pix_fmt: str = "yuv420p", codec: str = "libx264", rate: int = 100, keys: int = 250
) -> Path:
    """Frame n is plain, of level n mod 60 · 3 + 40, and shown at times[n] / 100 s."""
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, rate, options={"crf": "1", "g": str(keys), "x264-params": "open-gop=1"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, pix_fmt
        stream.codec_context.time_base = Fraction(1, 100)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), number % 60 * 3 + 40, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(path: Path, **options: Any) -> list[int]:
    """The numbers, modulo 60, of the frames that are read."""
    stride = options.pop("stride", 1)
    chunks = [chunk.mean((1, 2, 3)) for chunk in read(path, stride, 16, 1, **options)]
    return [round((float(value) - 40) / 3) for chunk in chunks for value in chunk]


# ---- rates


def test_files_of_any_rate_play_at_one_rate(tmp_path: Path) -> None:
    fast = write_levels(tmp_path / "fast.mp4", list(range(0, 40, 2)))  # 50 frames a second
    slow = write_levels(tmp_path / "slow.mp4", list(range(0, 40, 10)), rate=10)
    assert levels(fast, fps=25) == list(range(0, 20, 2))
    assert levels(slow, fps=25) == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert levels(fast, fps=50) == list(range(20))


def test_uneven_timestamps_play_evenly(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mkv", [0, 10, 13, 15, 40, 50], rate=10)
    assert levels(file, fps=10) == [0, 1, 3, 3, 4, 5]


def test_the_number_of_frames_at_a_rate_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_levels(tmp_path / "a" / "x.mp4", list(range(0, 40, 2)))
    assert collect(Data(train=tmp_path, fps=25), "train").clips[0].frames == 10


# ---- reading from the middle


@pytest.mark.parametrize(("stride", "fps"), [(1, None), (3, None), (1, 70.0)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm"])
def test_skipping_is_the_same_as_reading_and_leaving_out(
    tmp_path: Path, suffix: str, stride: int, fps: float | None
) -> None:
    """Far skips jump to a key frame; B-frames, open groups of pictures, and formats without timestamps included."""
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(suffix, "libx264")
    file = write_levels(tmp_path / f"x.{suffix}", list(range(700)), codec=codec, keys=40)
    whole = np.concatenate(list(read(file, stride, 16, 3, fps=fps)))
    for skip in (1, 15, 16, 190, 227, 228, len(whole) - 1, len(whole), len(whole) + 5):
        rest = list(read(file, stride, 16, 3, fps=fps, skip=skip, limit=50))
        expected = whole[skip : skip + 50]
        assert sum(len(chunk) for chunk in rest) == len(expected)
        assert not rest or np.array_equal(np.concatenate(rest), expected)


# ---- windows and augmentation


def played(clips: list[Clip], data: Data, ticks: int, **options: Any) -> tuple[list[Array], list[list[int]], Slots]:
    """Frames and clip ids of some ticks."""
    slots, batch = (
        Slots(clips, data, 5, train=True, **options),
        Batch((data.slots, data.channels, data.size, data.size)),
    )
    frames, ids = [], []
    for _ in range(ticks):
        assert slots.fill(batch.frames, batch.clips, batch.labels)
        frames.append(batch.frames.copy())
        ids.append(batch.clips.tolist())
    slots.close()
    return frames, ids, slots


def test_a_window_is_drawn_anew_at_each_playing_and_evaluation_plays_all(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mp4", list(range(60)))
    data = Data(train=tmp_path, window=7, size=16, channels=1, slots=1)
    clips = [Clip(file, 0, 60)]
    frames, ids, _ = played(clips, data, 70)
    numbers = [round((float(frame.mean()) - 40) / 3) for frame in frames]
    starts = numbers[::7]
    assert [clip for (clip,) in ids] == [n // 7 for n in range(70)]
    assert numbers == [start + n for start in starts for n in range(7)]
    assert len(set(starts)) > 4
    assert all(0 <= start <= 53 for start in starts)
    slots, batch, count = Slots(clips, data, 5, train=False), Batch((1, 1, 16, 16)), 0
    while slots.fill(batch.frames, batch.clips, batch.labels):
        count += 1
    slots.close()
    assert count == 60


def test_a_file_shorter_than_its_container_says_is_not_given_up(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mp4", list(range(10)))
    data = Data(train=tmp_path, window=5, size=16, slots=1)
    _, ids, slots = played([Clip(file, 0, 40)], data, 20)
    assert slots.errors.skipped > 0
    assert ids[-1][0] > 4


ON = {
    "scale": (0.3, 0.9),
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.2,
    "flip": 0.5,
}


@pytest.mark.parametrize("on", [{name: value} for name, value in ON.items()] + [ON], ids=[*ON, "all"])
def test_everything_is_drawn_once_a_clip(tmp_path: Path, on: dict[str, Any]) -> None:
    """All frames of a playing of one still picture are the same; playings differ. Threads draw from nothing common."""
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    path = tmp_path / "x.avi"
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(21):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = Data(train=tmp_path, size=48, slots=2, **on)
    job = Job([Clip(path, 0, 21)], data, 5, train=True)
    first = [by_player(job, slot, 3 * 21) for slot in range(2)]
    torch.rand(1)
    again = [by_player(job, slot, 3 * 21) for slot in range(2)]
    assert np.array_equal(first, again)
    looks = [{frame.tobytes() for frame in slot[n * 21 : (n + 1) * 21]} for slot in first for n in range(3)]
    assert all(len(look) == 1 for look in looks)
    assert len({next(iter(look)) for look in looks}) > 1


def test_decoding_processes_play_what_a_player_plays(tmp_path: Path) -> None:
    """Colours, sizes and all: where something is computed too."""
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 7 + 30 * n, size=(64, 48), seed=n), 0, 1) for n in range(2)]
    data = Data(train=tmp_path, size=48, slots=2, threads=1, **ON)
    frames, _, _ = played(clips, data, 60)
    job = Job(clips, data, 5, train=True)
    assert np.array_equal(np.stack(frames, axis=1), [by_player(job, slot, 60) for slot in range(2)])


def by_player(job: Job, slot: int, frames: int) -> Array:
    """The first frames that a slot plays."""
    room = np.zeros((CHUNK, job.data.channels, job.data.size, job.data.size), np.uint8)
    seen: list[Array] = []
    for chunk in ClipPlayer(job, lambda *_: None).chunks(slot, 0, lambda: room):
        seen.extend(room[: chunk.frames].copy())
        if len(seen) >= frames:
            break
    return np.array(seen[:frames])


def test_what_is_off_draws_nothing() -> None:
    """Runs of earlier versions play the same frames: top, left and mirrored are the generator's first three draws."""
    frames, data = np.zeros((1, 3, 40, 50), np.uint8), Data(train=Path(), size=16, flip=0.5)
    random = np.random.default_rng([7, 1, 3])
    expected = int(random.integers(0, 25)), int(random.integers(0, 35)), bool(random.random() < 0.5)
    drawing = np.random.default_rng([7, 1, 3])
    choice = draw(frames.shape[-2:], data, drawing)
    assert (choice.top, choice.left, choice.mirrored) == expected
    assert drawing.random() == random.random()
    assert (choice.brightness, choice.contrast, choice.saturation, choice.hue) == (1, 1, 1, 0)


@given(st.integers(0, 10**6), st.integers(20, 300), st.integers(20, 300), st.floats(0.01, 1), st.floats(0.2, 5))
@hypothesis_settings(max_examples=100)
def test_a_random_resized_crop_lies_in_the_frame(
    seed: int, height: int, width: int, least: float, ratio: float
) -> None:
    data = Data(train=Path(), size=16, scale=(least, 1.0), ratio=(ratio, 1.3 * ratio))
    frames = np.zeros((2, 3, height, width), np.uint8)
    choice = draw((height, width), data, np.random.default_rng(seed))
    assert 0 <= choice.top <= height - choice.height
    assert 0 <= choice.left <= width - choice.width
    assert choice(frames).shape == (2, 3, 16, 16)


# ---- turned files, odd pixels


MATRICES = {
    "clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "anticlockwise": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "upside down": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_is_applied(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / "x.mp4", 3, size=(48, 32), seed=4)
    upright = next(read(path, 1, 32, 3))[0].transpose(1, 2, 0)
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44  # the track header's matrix: a b u, c d v, x y w
    (a, b, c, d), turned = MATRICES[name]
    data[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert np.array_equal(next(read(path, 1, 32, 3))[0].transpose(1, 2, 0), turned(upright))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv444p10le", "mkv"),
        ("libx264", "yuvj420p", "mp4"),
        ("libx264", "gray", "mp4"),
        ("libx264", "yuv422p", "mp4"),
        ("ffv1", "bgra", "mkv"),
        ("ffv1", "gray16le", "mkv"),
        ("ffv1", "yuva420p", "mkv"),
        ("qtrle", "argb", "mov"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_pixel_formats_look_the_same(tmp_path: Path, codec: str, pix_fmt: str, suffix: str, channels: int) -> None:
    path = tmp_path / f"x.{suffix}"
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16] = 255
    picture[:, :16] //= 2
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    got = next(read(path, 1, 32, channels))[0].transpose(1, 2, 0).astype(int)
    assert got.shape == (32, 48, channels)
    assert np.abs(got - picture[:, :, :channels])[1:-1, 18:-1].max() <= 12
    assert np.abs(got[2:14, 2:14] - 127).max() <= 12


def test_sizes_and_rates_may_be_mixed(tmp_path: Path) -> None:
    for number, (size, rate) in enumerate([((24, 20), 25), ((90, 40), 10), ((32, 64), 60)]):
        write_clip(tmp_path / "a" / f"{number}.mp4", 9, size=size, rate=rate, seed=number)
    data = Data(train=tmp_path, slots=2, size=16, fps=12.5)
    clips = find(tmp_path, "*", 1).clips
    assert len(clips) == 3
    frames, ids, slots = played(collect(data, "train").clips, data, 60)
    assert len({clip for tick in ids for clip in tick}) > 10
    assert all(frame.any() for tick in frames for frame in tick)
    assert not slots.errors.reasons


# ---- going on in the middle


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Clips of 1, 16, 17, 32 and 40 frames, one that gives nothing, one that ends before its container says."""
    root = tmp_path_factory.mktemp("mixed")
    clips = [
        Clip(write_levels(root / f"{length}.mp4", list(range(length))), length % 3, length)
        for length in (1, CHUNK, CHUNK + 1, 2 * CHUNK, 40)
    ]
    (root / "bad.mp4").write_bytes(b"nothing")
    broken = write_clip(root / "broken.avi", 120, size=(64, 48), codec="mpeg4")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    return [*clips, Clip(root / "bad.mp4", 0, 9), Clip(broken, 1, 120)]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 11, "flip": 0.5},
    "stride": {"stride": 3, "scale": (0.3, 1.0)},
    "rate": {"fps": 60.0},
}


@given(st.sampled_from(sorted(WAYS)), st.integers(0, 150), st.integers(1, 3), st.integers(0, 20))
@hypothesis_settings(max_examples=6)
def test_a_stream_goes_on_where_another_was(mixed: list[Clip], way: str, stop: int, slots: int, seed: int) -> None:
    """Frames, ids and labels, bit for bit, twice over: from a place that was itself come to from a place."""
    data = Data(train=Path(), slots=slots, size=16, threads=1, **WAYS[way])
    whole = Recorder(mixed, data, seed, None)
    expected = whole.take(stop + 80)
    first = Recorder(mixed, data, seed, None)
    first.take(stop)
    second = Recorder(mixed, data, seed, first.end())
    assert second.take(30) == expected[stop : stop + 30]
    third = Recorder(mixed, data, seed, second.end())
    assert third.take(50) == expected[stop + 30 :]
    third.end()
    whole.end()


class Recorder:
    """A stream's ticks as bytes."""

    def __init__(self, clips: list[Clip], data: Data, seed: int, start: list[tuple[int, int]] | None) -> None:
        self._slots = Slots(clips, data, seed, train=True, start=start)
        self._batch = Batch((data.slots, data.channels, data.size, data.size))

    def take(self, ticks: int) -> list[bytes]:
        seen = []
        for _ in range(ticks):
            assert self._slots.fill(self._batch.frames, self._batch.clips, self._batch.labels)
            batch = self._batch
            seen.append(b"".join(array.tobytes() for array in (batch.frames, batch.clips, batch.labels)))
        return seen

    def end(self) -> list[tuple[int, int]]:
        self._slots.close()
        return self._slots.places()


def test_places_count_what_was_handed_out(mixed: list[Clip]) -> None:
    data = Data(train=Path(), slots=2, size=16)
    slots, batch = Slots(mixed[1:3], data, 0, train=True), Batch((2, 3, 16, 16))
    assert slots.places() == [(0, 0), (1, 0)]
    lengths = [clip.frames for number in (0, 1) if (clip := ShuffledOrder(mixed[1:3], 0, True).entry(number))]
    for tick in range(1, CHUNK + 1):
        slots.fill(batch.frames, batch.clips, batch.labels)
        assert slots.places() == [(0, tick), (1, tick)]
    slots.fill(batch.frames, batch.clips, batch.labels)
    assert sorted(slots.places()) == sorted((n, CHUNK + 1) if lengths[n] == CHUNK + 1 else (n + 2, 1) for n in (0, 1))
    slots.close()


def test_the_millionth_entry_is_found_at_once(mixed: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled: list[int] = []
    original = ShuffledOrder._shuffle

    def noted(self: ShuffledOrder, epoch: int) -> object:
        shuffled.append(epoch)
        return original(self, epoch)

    monkeypatch.setattr(ShuffledOrder, "_shuffle", noted)
    data = Data(train=Path(), slots=2, size=16)
    room = np.zeros((CHUNK, 3, 16, 16), np.uint8)
    for slot in range(2):
        chunks = ClipPlayer(Job(mixed[:5], data, 0, train=True), lambda *_: None).chunks(
            1_000_000 + slot, 0, lambda: room
        )
        assert [next(chunks).clip for _ in range(3)]
    assert set(shuffled) <= set(range(200_000, 200_030))
    assert len(shuffled) < 30


def test_an_evaluation_that_has_ended_stays_ended(mixed: list[Clip]) -> None:
    data, batch = Data(train=Path(), slots=2, size=16), Batch((2, 3, 16, 16))
    slots = Slots(mixed[:2], data, 0, train=False)
    while slots.fill(batch.frames, batch.clips, batch.labels):
        pass
    slots.close()
    again = Slots(mixed[:2], data, 0, train=False, start=slots.places())
    assert not again.fill(batch.frames, batch.clips, batch.labels)
    again.close()
    assert slots.places() == [(0, 1), (1, CHUNK)]


# ---- one long file in a loop


def test_a_long_file_is_played_round_and_round(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mp4", list(range(30)))
    data = Data(sources=[str(file)], loop=True, slots=3, size=16, channels=1)
    clips = collect(data, "train", labelled=False)
    assert clips.frames == 30
    frames, ids, _ = played(clips.clips, data, 50)
    numbers = [[round((float(row.mean()) - 40) / 3) for row in frame] for frame in frames]
    assert [list(column) for column in zip(*numbers, strict=True)] == [
        [(tick + start) % 30 for tick in range(50)] for start in (0, 10, 20)
    ]
    assert [list(dict.fromkeys(column)) for column in zip(*ids, strict=True)] == [[0, 3], [1, 4], [2, 5, 8]]
    first = Recorder(clips.clips, data, 5, None)
    expected = first.take(40)
    start = Recorder(clips.clips, data, 5, None)
    start.take(17)
    rest = Recorder(clips.clips, data, 5, start.end())
    assert rest.take(23) == expected[17:]
    rest.end()
    first.end()


def test_a_file_to_loop_that_cannot_be_read_is_told() -> None:
    with pytest.raises(DataError, match=r"gone\.mp4 cannot be read"):
        collect(Data(sources=["gone.mp4"], loop=True), "train", labelled=False)


@given(width=st.integers(16, 100), height=st.integers(16, 60), short_side=st.integers(16, 60), full=st.booleans())
@hypothesis_settings(max_examples=150)
def test_every_pixel_of_every_size_is_converted(width: int, height: int, short_side: int, full: bool) -> None:
    colour = np.array([200, 100, 40], np.uint8)
    frame = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (height, width, 3)).copy(), format="rgb24")
    frame = frame.reformat(format="yuvj444p" if full else "yuv420p")
    for side in (min(width, height), short_side):
        for channel, value in zip(Scaler(frame, side, 3)(frame), colour, strict=True):
            assert np.abs(channel.astype(int) - int(value)).max() <= 8
