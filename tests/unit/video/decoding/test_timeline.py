"""When frames are shown: by their times where the rate varies."""

from pathlib import Path

import numpy as np
import pytest

from coordinator.video.decoding.media_info import MediaInfo, read_media_info
from coordinator.video.decoding.opening import open_file, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.resample import FrameClock
from coordinator.video.decoding.timeline import Timeline, read_frame_times
from tests.support.sampling import write_levels

EVEN = list(range(0, 100, 4))  # hundredths of a second
UNEVEN = [0, 10, 13, 15, 40, 50, 53, 100]


def test_at_a_constant_rate() -> None:
    timeline = Timeline(25.0)
    assert timeline.seconds_at([0, 5, 1000]).tolist() == [0.0, 0.2, 40.0]
    assert timeline.frames_at([0.0, 0.2, 0.21, 40.0]).tolist() == [0.0, 5.0, 5.25, 1000.0]


def test_at_a_variable_rate() -> None:
    timeline = Timeline(10.0, lambda: [0.0, 0.5, 0.6, 1.0])
    assert timeline.seconds_at([0, 1, 1.5, 3, 5]).tolist() == pytest.approx([0, 0.5, 0.55, 1.0, 1.2])
    places = timeline.frames_at([0, 0.25, 0.5, 0.5004, 0.502, 1.0, 1.3])
    assert np.ceil(places).tolist() == [0, 1, 1, 1, 2, 3, 6]  # the frame that begins then, or the next
    assert places[1] == pytest.approx(0.5, abs=0.01)


def test_times_are_read_once_and_only_if_needed() -> None:
    def unread() -> list[float]:
        raise AssertionError("nobody asked for a time")

    reads = []

    def read() -> list[float]:
        reads.append(1)
        return [0.0, 0.5]

    Timeline(10.0, unread)
    timeline = Timeline(10.0, read)
    assert timeline.frames_at(0.5) > 0.9
    assert timeline.seconds_at(1) == 0.5
    assert reads == [1]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_they_are_those_at_which_a_file_is_played(tmp_path: Path, suffix: str) -> None:
    file = write_levels(tmp_path / f"x.{suffix}", UNEVEN, rate=25)
    with open_file(file) as container:
        stream = video_stream(container)
        times = [time for _, time in FrameClock(container, stream).timed(decoded(container, stream, Damage()))]
    assert times == [hundredths / 100 for hundredths in UNEVEN]
    assert list(read_frame_times(file)) == pytest.approx(times, abs=1e-9)


def test_what_says_no_times_goes_by_the_rate(tmp_path: Path) -> None:
    assert not read_frame_times(tmp_path / "none.mp4")
    (tmp_path / "x.mp4").write_bytes(b"no video")
    assert not read_frame_times(tmp_path / "x.mp4")
    jumping = write_levels(tmp_path / "x.mkv", [0, 10, 20, 40_000, 40_010])  # by more than FrameClock shows a frame
    assert not read_frame_times(jumping)


@pytest.mark.parametrize(
    ("name", "times", "variable"),
    [
        ("x.mp4", UNEVEN, True),
        ("x.mp4", EVEN, False),
        ("x.mkv", UNEVEN, True),
        ("x.mkv", EVEN, True),  # nobody knows before its times are read
    ],
)
def test_files_of_variable_rate_are_known(tmp_path: Path, name: str, times: list[int], variable: bool) -> None:
    info = read_media_info(write_levels(tmp_path / name, times, rate=25))
    assert isinstance(info, MediaInfo)
    assert info.variable == variable
