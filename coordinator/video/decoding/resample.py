"""When the frames of a file are shown, and files of different frame rates played at one rate by it."""

from collections.abc import Iterator

import av
from av.format import Flags

CLOSE = 1e-6  # seconds by which timestamps may be rounded
_STANDING = 16  # frames whose timestamps do not rise, before they count as begun anew
_LONGEST = 300.0  # seconds that a picture may stand; more is a broken timestamp
_LONGEST_BROADCAST = 10.0  # the same where the container's clock may jump, as FFmpeg has it (dts_delta_threshold)

Timed = tuple[av.VideoFrame, float]


def longest_gap(container: "av.container.InputContainer") -> float:
    """Seconds between two timestamps above which they have jumped."""
    return _LONGEST_BROADCAST if Flags.ts_discont & Flags(container.format.flags) else _LONGEST


class FrameClock:
    """Tells when each frame of a file is shown, in seconds from its first, whatever its timestamps are like.

    Where they do not rise, or are missing, for a few frames, these share the time until the next that does. Where they
    begin anew, jump or stand still, time goes on from the frame before, for as long as that is shown by its own word,
    or at the file's rate.
    """

    def __init__(
        self,
        container: "av.container.InputContainer",
        stream: av.VideoStream,
        first: av.VideoFrame | None = None,
    ) -> None:
        """`first`: the file's first frame, where it has come already."""
        self._step, self._longest = 1 / float(stream.average_rate or 25), longest_gap(container)
        self._stamp = (lambda frame: frame.dts) if container.format.name == "avi" else _Guess()  # it has no others
        self._origin = None if first is None else self._seconds(first)
        self._now = self._end = self._shift = 0.0
        self._waiting: list[av.VideoFrame] = []

    @property
    def end(self) -> float:
        """When the last frame is over."""
        return self._end

    def timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """Each frame with its time, larger than that of the one before."""
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
                yield from self._share(time)
                yield self._show(frame, time)
                continue
            self._waiting.append(frame)
            if len(self._waiting) > _STANDING or (time is not None and time > self._now):
                yield from self._go_on()
                self._shift = self._shift if stamp is None else self._now - stamp
        yield from self._go_on()

    def _seconds(self, frame: av.VideoFrame) -> float | None:
        stamp = self._stamp(frame)
        return None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)

    def _show(self, frame: av.VideoFrame, time: float) -> Timed:
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        self._now, self._end = time, time + (lasts if 0 < lasts <= self._longest else self._step)
        return frame, time

    def _share(self, until: float) -> Iterator[Timed]:
        """Those that wait, evenly over the time until the next."""
        waiting, self._waiting = self._waiting, []
        each = (until - self._now) / (len(waiting) + 1)
        for frame in waiting:
            yield self._show(frame, self._now + each)

    def _go_on(self) -> Iterator[Timed]:
        """Those that wait, one after another."""
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            yield self._show(frame, self._end)


class _Guess:
    """A frame's timestamp: that of its picture, or that of its packet where the former are worse.

    As libavcodec's `guess_correct_pts`, which PyAV does not show.
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
    """Frames number, number + 1, … of a file played at `fps` frames a second: at each instant k / fps the newest.

    A frame is held until the next one; the last for as long as the file says, or for a frame's time.
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
