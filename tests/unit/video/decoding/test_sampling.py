"""Which frames of a file are played: frame rates, skipping, windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import Clip, collect, find
from coordinator.video.slots import Slots
from tests.support.sampling import played, write_levels
from tests.support.videos import write_clip


def levels(path: Path, **options: Any) -> list[int]:
    """The numbers modulo 60 of the frames that are read."""
    stride = options.pop("stride", 1)
    chunks = [chunk.mean((1, 2, 3)) for chunk in read(path, stride, 16, 1, **options)]
    return [round((float(value) - 40) / 3) for chunk in chunks for value in chunk]


# ---- rates


def test_files_of_any_frame_rate_play_at_data_fps(tmp_path: Path) -> None:
    fast = write_levels(tmp_path / "fast.mp4", list(range(0, 40, 2)))  # 50 frames per second
    slow = write_levels(tmp_path / "slow.mp4", list(range(0, 40, 10)), rate=10)
    assert levels(fast, fps=25) == list(range(0, 20, 2))
    assert levels(slow, fps=25) == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert levels(fast, fps=50) == list(range(20))


def test_uneven_timestamps_play_evenly(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mkv", [0, 10, 13, 15, 40, 50], rate=10)
    assert levels(file, fps=10) == [0, 1, 3, 3, 4, 5]


def test_the_number_of_frames_at_data_fps_is_known_in_advance(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_levels(tmp_path / "a" / "x.mp4", list(range(0, 40, 2)))
    assert collect(Data(train=tmp_path, fps=25), "train").clips[0].frames == 10


# ---- reading from the middle


@pytest.mark.parametrize(("stride", "fps"), [(1, None), (3, None), (1, 70.0)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm"])
def test_skipping_equals_reading_and_discarding(tmp_path: Path, suffix: str, stride: int, fps: float | None) -> None:
    """Far skips seek to a key frame. Also with B-frames, open GOPs, and formats without timestamps."""
    codec = {"avi": "mpeg4", "webm": "libvpx-vp9"}.get(suffix, "libx264")
    file = write_levels(tmp_path / f"x.{suffix}", list(range(700)), codec=codec, keys=40)
    whole = np.concatenate(list(read(file, stride, 16, 3, fps=fps)))
    for skip in (1, 15, 16, 190, 227, 228, len(whole) - 1, len(whole), len(whole) + 5):
        rest = list(read(file, stride, 16, 3, fps=fps, skip=skip, limit=50))
        expected = whole[skip : skip + 50]
        assert sum(len(chunk) for chunk in rest) == len(expected)
        assert not rest or np.array_equal(np.concatenate(rest), expected)


# ---- windows and augmentation


def test_training_draws_a_window_per_playing_and_evaluation_plays_all_frames(tmp_path: Path) -> None:
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
    slots, batch, count = Slots(Job(clips, data, 5, train=False)), Batch((1, 1, 16, 16)), 0
    while slots.fill(batch):
        count += 1
    slots.close()
    assert count == 60


def test_a_file_shorter_than_its_container_says_is_still_used(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mp4", list(range(10)))
    data = Data(train=tmp_path, window=5, size=16, slots=1)
    _, ids, slots = played([Clip(file, 0, 40)], data, 20)
    assert slots.errors.skipped > 0
    assert ids[-1][0] > 4


# ---- mixed files


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


# ---- one long file in a loop
