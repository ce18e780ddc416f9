"""When the frames of a file are shown, and files of different frame rates played at one rate by it."""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.format import Flags

CLOSE = 1e-6  # seconds by which timestamps may be rounded
_SLIP = 1.0  # seconds by which timestamps may lag behind what was shown before they count as begun anew
_LONGEST = 300.0  # seconds that a picture may stand; more is a broken timestamp
_LONGEST_BROADCAST = 10.0  # the same where the container's clock may jump, as FFmpeg has it (dts_delta_threshold)


def longest_gap(container: "av.container.InputContainer") -> float:
    """Seconds between two timestamps above which they have jumped."""
    return _LONGEST_BROADCAST if Flags.ts_discont & Flags(container.format.flags) else _LONGEST


class Clock:
    """Tells when each frame of a file is shown, in seconds from its first, whatever its timestamps are like.

    Where they are missing, begin anew, jump or stand still, time goes on from the frame before, for as long as that is
    shown by its own word, or at the file's rate.
    """

    def __init__(self, rate: Fraction | None, longest: float, origin: float | None = None) -> None:
        """`rate`: the file's own; `longest`: of a gap, in seconds; `origin`: the first frame's timestamp in seconds, if
        it has come already.
        """
        self._step, self._longest = 1 / float(rate or 25), longest
        self._shift = 0.0 if origin is None else -origin
        self._aligned = origin is not None
        self._now: float | None = None
        self._end = 0.0  # of what is shown now, if nothing comes before
        self._guess = _Guess()

    @property
    def end(self) -> float:
        """When the frame is over that came last, if it is the last."""
        return self._end

    def __call__(self, frame: av.VideoFrame) -> float:
        """The frame's time; larger than that of the one before."""
        time = self._time(self._guess(frame))
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        self._now, self._end = time, time + (lasts if 0 < lasts <= self._longest else self._step)
        return time

    def _time(self, stamp: float | None) -> float:
        if self._now is None:
            if not self._aligned:
                self._shift = -(stamp or 0.0)
            return 0.0 if stamp is None else stamp + self._shift
        if stamp is None:
            return self._end
        time = stamp + self._shift
        lag = self._now - time
        if -self._longest <= lag < 0:
            return time
        if lag < 0 or lag > _SLIP:  # from here on they count from another beginning
            self._shift += self._end - time
        return self._end


class _Guess:
    """A frame's timestamp in seconds: that of its picture, or that of its packet where the former are worse.

    As libavcodec's `guess_correct_pts`, which PyAV does not show. AVI, for one, has only the packets'.
    """

    def __init__(self) -> None:
        self._faults = [0, 0]
        self._last: list[int | None] = [None, None]

    def __call__(self, frame: av.VideoFrame) -> float | None:
        both = frame.pts, frame.dts
        for number, (stamp, other) in enumerate((both, both[::-1])):
            if stamp is not None:
                last = self._last[number]
                self._faults[number] += last is not None and stamp <= last
            self._last[number] = other if stamp is None else stamp
        picture, packet = both
        chosen = picture if picture is not None and (packet is None or self._faults[0] <= self._faults[1]) else packet
        return None if chosen is None or frame.time_base is None else float(chosen * frame.time_base)


def resample(frames: Iterator[av.VideoFrame], fps: float, clock: Clock, number: int = 0) -> Iterator[av.VideoFrame]:
    """Frames number, number + 1, … of a file played at `fps` frames a second: at each instant k / fps the newest.

    A frame is held until the next one; the last for as long as the file says, or for a frame's time.
    """
    held: av.VideoFrame | None = None
    for frame in frames:
        time = clock(frame)
        while held is not None and number / fps < time - CLOSE:
            yield held
            number += 1
        held = frame
    while held is not None and number / fps < clock.end - CLOSE:
        yield held
        number += 1
