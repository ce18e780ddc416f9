"""When the frames of a file are shown: from frame numbers to seconds and back, at a constant or a variable rate."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coordinator.video.decoding.opening import open_file, video_stream
from coordinator.video.decoding.resample import longest_gap
from coordinator.video.decoding.seek import packet_timestamps

_Floats = NDArray[np.float64]
_ROUNDING = 1e-3  # seconds; to whole ones of these the coarsest containers (Matroska, FLV) round when a frame begins


class Timeline:
    """The seconds, from a file's first frame, at which its frames begin. Past the last one they go on at the rate."""

    def __init__(self, rate: float, read_times: Callable[[], Sequence[float]] | None = None) -> None:
        """`rate`: frames per second. `read_times`: of a file of variable rate; called once, if times are asked for."""
        self._rate, self._read_times = rate, read_times

    def seconds_at(self, frames: ArrayLike) -> _Floats:
        """When these frames begin, in seconds."""
        numbers, times = np.asarray(frames, np.float64), self._times
        last = len(times) - 1
        inside: _Floats = np.interp(numbers, np.arange(len(times)), times)
        return inside + np.maximum(numbers - last, 0) / self._rate

    def frames_at(self, seconds: ArrayLike) -> _Floats:
        """Which frames begin at these instants; between the beginnings of frames k and k + 1 a number between these."""
        instants, times = np.asarray(seconds, np.float64), self._times
        if len(times) > 1:
            instants = np.maximum(instants - _ROUNDING, 0)  # one that is meant as a frame's beginning is not after it
        inside: _Floats = np.interp(instants, times, np.arange(len(times)))
        return inside + np.maximum(instants - times[-1], 0) * self._rate

    @cached_property
    def _times(self) -> _Floats:
        return np.array((self._read_times() if self._read_times else ()) or (0.0,))


def read_frame_times(path: Path) -> Sequence[float]:
    """The seconds, from the first one, at which a file's frames begin, by its packets: only the first are decoded.

    Empty if the packets do not say it, or jump (`FrameClock`).
    """
    with suppress(av.FFmpegError, OSError, ValueError), open_file(path) as container:
        base = float(video_stream(container).time_base or 0)
        stamps = packet_timestamps(path)
        if len(stamps) > 1 and max(b - a for a, b in pairwise(stamps)) * base <= longest_gap(container):
            return [(stamp - stamps[0]) * base for stamp in stamps]
    return ()
