"""With data.fps, a file plays as a viewer would see it, whatever its timestamps are."""

from pathlib import Path

import pytest

from coordinator.video.decoding.reader import read
from tests.support.videos import levels, restamp, write_at, write_moving

EVEN = [4 * number for number in range(20)]  # 25 frames per second
MS = [10 * time for time in EVEN]


def test_a_frame_is_repeated_as_long_as_it_is_shown(tmp_path: Path) -> None:
    """The second frame comes 15 s after the first."""
    for suffix in ("mkv", "mp4"):
        path = write_at(tmp_path / f"x.{suffix}", [0, *(1500 + time for time in EVEN)])
        assert levels(path, fps=10) == [0] * 150 + [1, 3, 6, 8, 11, 13, 16, 18]


def test_the_last_frame_is_repeated_for_its_duration(tmp_path: Path) -> None:
    path = write_at(tmp_path / "x.gif.mp4", [0, 50, 100], rate=2)
    assert levels(path, fps=4) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("shift", [-20, 5000])
def test_timestamps_may_start_anywhere(tmp_path: Path, shift: int) -> None:
    path = write_at(tmp_path / "x.mkv", [time + shift for time in EVEN])
    assert levels(path, fps=25) == list(range(20))


def test_a_jump_of_the_timestamps_is_closed(tmp_path: Path) -> None:
    path = write_at(tmp_path / "x.mkv", [*EVEN[:10], *(100_000 + time for time in EVEN[10:])])
    assert levels(path, fps=25) == list(range(20))


@pytest.mark.parametrize(
    "times",
    [
        [*MS[:10], *(time - 400 for time in MS[10:])],
        [*MS[:10], *[400] * 10],
        [0] * 20,
        [*MS[:7], MS[6], *MS[8:]],
        [*MS[:7], MS[6] - 60, *MS[8:]],
    ],
    ids=["restart", "constant from the middle", "all equal", "one repeated", "one decreasing"],
)
def test_non_increasing_timestamps_do_not_stop_time(tmp_path: Path, times: list[int]) -> None:
    path = restamp(write_at(tmp_path / "x.mkv", EVEN), times)
    assert levels(path, fps=25) == list(range(20))
    assert levels(path, fps=10) == [0, 2, 5, 7, 10, 12, 15, 17]


def test_frames_with_equal_timestamps_are_spread_evenly(tmp_path: Path) -> None:
    """As in a file of 25 frames per second written with a clock of half that rate."""
    path = restamp(write_at(tmp_path / "x.mkv", EVEN), [time // 80 * 80 for time in MS])
    assert levels(path, fps=25) == list(range(20))


def test_joined_broadcasts_play_on_at_the_same_rate(tmp_path: Path) -> None:
    """The second file has its own clock."""
    first, second = (write_moving(tmp_path / f"{n}.ts", 75, g="25") for n in range(2))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert sum(len(chunk) for chunk in read(joined, 1, 32, 1, fps=25)) == 150


@pytest.mark.parametrize("name", ["x.h264", "x.avi"])
def test_files_without_presentation_timestamps_play_evenly(tmp_path: Path, name: str) -> None:
    """With no timestamps at all, or decoding timestamps only."""
    path = write_moving(tmp_path / name, 100, bf="3", g="50")
    assert sum(len(chunk) for chunk in read(path, 1, 32, 1, fps=25)) in (100, 101)
    assert sum(len(chunk) for chunk in read(path, 1, 32, 1, fps=5)) in (20, 21)
