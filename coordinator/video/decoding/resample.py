"""Compute when the frames of a file are shown, and resample files of any frame rate to a fixed one."""

from collections.abc import Iterator

import av
from av.format import Flags

from coordinator.video.decoding.opening import rate_of

CLOSE = 1e-6  # seconds of tolerance for rounded timestamps
_MOST_STILL = 16  # frames in a row whose timestamps may fail to increase before the timestamps count as reset
_LONGEST = 300.0  # seconds that a frame may be shown; more is a broken timestamp
_LONGEST_BROADCAST = 10.0  # the same where the container's clock may jump; FFmpeg's default (dts_delta_threshold)

Timed = tuple[av.VideoFrame, float]


def longest_gap(container: "av.container.InputContainer") -> float:
    """Seconds between two successive timestamps above which they count as a jump."""
    return _LONGEST_BROADCAST if Flags.ts_discont & Flags(container.format.flags) else _LONGEST


class FrameClock:
    """Computes when each frame of a file is shown, in seconds from its first frame, however bad its timestamps are.

    A few frames without an increasing timestamp are spread evenly over the time until the next one that has it. Where
    timestamps restart, jump or stand still, time continues from the previous frame by that frame's own duration, or
    else at the file's frame rate.
    """

    def __init__(
        self,
        container: "av.container.InputContainer",
        stream: av.VideoStream,
        first: av.VideoFrame | None = None,
    ) -> None:
        """`first`: the file's first frame, if it has been decoded already; else that of `timed` counts as the first."""
        self._step, self._longest = 1 / rate_of(stream), longest_gap(container)
        self._stamp = (lambda frame: frame.dts) if container.format.name == "avi" else _Guess()  # AVI stores no pts
        self._origin = None if first is None else self._seconds(first)
        self._now = self._end = self._shift = 0.0
        self._waiting: list[av.VideoFrame] = []

    @property
    def end(self) -> float:
        """When the last frame ends, in seconds from the first."""
        return self._end

    def timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """Yield each frame with its time in seconds, which increases strictly."""
        first = next(frames, None)
        if first is None:
            return
        stamp = self._seconds(first)
        self._shift = -(self._origin if self._origin is not None else stamp or 0.0)
        yield self._show(first, 0.0 if stamp is None else stamp + self._shift)
        for frame in frames:
            stamp = self._seconds(frame)
            time = None if stamp is None else stamp + self._shift
            if time is not None and self._now < time <= self._now + self._longest:
                yield from self._spread(time)
                yield self._show(frame, time)
                continue
            self._waiting.append(frame)
            if len(self._waiting) > _MOST_STILL or (time is not None and time > self._now):
                yield from self._show_in_sequence()
                self._shift = self._shift if stamp is None else self._now - stamp
        yield from self._show_in_sequence()

    def _seconds(self, frame: av.VideoFrame) -> float | None:
        stamp = self._stamp(frame)
        return None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)

    def _show(self, frame: av.VideoFrame, time: float) -> Timed:
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        self._now, self._end = time, time + (lasts if 0 < lasts <= self._longest else self._step)
        return frame, time

    def _spread(self, until: float) -> Iterator[Timed]:
        """Yield the waiting frames, spread evenly over the time until the next."""
        waiting, self._waiting = self._waiting, []
        each = (until - self._now) / (len(waiting) + 1)
        for frame in waiting:
            yield self._show(frame, self._now + each)

    def _show_in_sequence(self) -> Iterator[Timed]:
        """Yield the waiting frames, each where the one before it ends."""
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            yield self._show(frame, self._end)


class _Guess:
    """A frame's timestamp: its pts, or its dts if that has proved more reliable.

    As libavcodec's `guess_correct_pts`, which PyAV does not expose.
    """

    def __init__(self) -> None:
        self._faults = [0, 0]
        self._last: list[int | None] = [None, None]

    def __call__(self, frame: av.VideoFrame) -> int | None:
        both = frame.pts, frame.dts
        for number, (stamp, other) in enumerate((both, both[::-1])):
            if stamp is not None:
                last = self._last[number]
                self._faults[number] += last is not None and stamp <= last
            self._last[number] = other if stamp is None else stamp
        picture, packet = both
        return picture if picture is not None and (packet is None or self._faults[0] <= self._faults[1]) else packet


def resample(
    frames: Iterator[av.VideoFrame], fps: float, clock: FrameClock, number: int = 0
) -> Iterator[av.VideoFrame]:
    """Yield frames `number`, `number` + 1, … of a file resampled to `fps`: frame k is the newest at k / fps seconds.

    A frame is held until the next one; the last for its own duration, or one frame interval of the file.
    """
    held: av.VideoFrame | None = None
    for frame, time in clock.timed(frames):
        while held is not None and number / fps < time - CLOSE:
            yield held
            number += 1
        held = frame
    while held is not None and number / fps < clock.end - CLOSE:
        yield held
        number += 1
