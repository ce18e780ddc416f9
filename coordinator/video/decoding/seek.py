"""Jumping to a frame in the middle of a file: exactly the one that decoding from the beginning would come to.

What a container says of its frames is not to be relied on. Timestamps may be in the order of decoding (AVI), key frames
may be none that decoding can begin at (intra refresh), packets may give no frame. So a jump has to prove itself:

near    What can be decoded from the beginning in some seconds is, once. Timestamps and checksums of the frames on the
        way are remembered: later jumps must land on them, and go on from there to what is not known yet.
far     Hours into a film, the packets' timestamps number the frames, and two jumps, to key frames one after another,
        must land on the same frames. (Packets lost or damaged long before that are not noticed; `near` counts them.)

Where a jump fails, the file is decoded from its beginning.
"""

import os
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np

from coordinator.video.decoding.media_info import opened, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.resample import CLOSE

_BEFORE = 32  # frames: key frames are looked for so much earlier, as frames around them may be stored out of order
_CHECKED = 17  # frames that a jump must land on; H.264 and HEVC predict from 16 earlier ones at most
_MOMENT = 1 << 33  # pixels: half a minute of decoding at most; 4,000 frames of 1920 × 1080, an hour of 320 × 240
_TOLD = 256  # frames after which it is told that decoding goes on
_SAMPLE = 64  # frames from the beginning of a film of which timestamps must be as its packets say
_FILES = 512  # remembered


Alive = Callable[[], None]


class FrameIndex:
    """What decoding a file from its beginning has given so far.

    Attributes:
        times: the frames' timestamps, in units of the stream's time base.
        rising: every frame has one, and it is larger than the one before.
        whole: all frames of the file are known.
    """

    def __init__(self) -> None:
        self.times, self.rising, self.whole = array("q"), True, False
        self._sums = array("L")
        self._misled = False

    def note(self, frames: Iterator[av.VideoFrame], first: int, alive: Alive) -> Iterator[av.VideoFrame]:
        """Remember the file's frames, all from number `first` on, while they pass. `alive` is told that they do."""
        for number, frame in enumerate(frames, first):
            if number == len(self.times) and self.rising:
                self._add(frame)
            if number % _TOLD == 0:
                alive()
            yield frame
        self.whole = self.rising

    def resync(self, wanted: int | None) -> int:
        """The number of the last frame that is known well enough to jump to, not beyond the one that is wanted."""
        last = len(self.times) - (1 if self.whole else _CHECKED)
        return last if wanted is None else min(wanted, last)

    def jump(
        self, container: "av.container.InputContainer", stream: av.VideoStream, number: int, damage: Damage
    ) -> Iterator[av.VideoFrame] | None:
        """The frames from a number on, if they can be jumped to. The container is moved."""
        expected = self._sums[number : number + _CHECKED]
        frames = _from(container, stream, self.times[number - _BEFORE], self.times[number], damage)
        landed = list(islice(frames, _CHECKED))
        if [_checksum(frame) for frame in landed] != expected.tolist():
            self._misled = True
            return None
        return chain(landed, frames)

    @property
    def jumps(self) -> bool:
        """Whether the file can be jumped into, as far as is known."""
        return self.rising and not self._misled

    def _add(self, frame: av.VideoFrame) -> None:
        if frame.pts is None or (self.times and frame.pts <= self.times[-1]):
            self.rising = False
        else:
            self.times.append(frame.pts)
            self._sums.append(_checksum(frame))


def frame_index(path: Path) -> FrameIndex:
    """What this process knows of a file, as long as nobody writes to it."""
    state = os.stat(path)
    return _indexed(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=_FILES)
def _indexed(path: Path, changed: int, size: int) -> FrameIndex:
    return FrameIndex()


def jump(
    path: Path,
    container: "av.container.InputContainer",
    stream: av.VideoStream,
    number_of: Callable[[Sequence[int]], int | None],
    about: int,
    damage: Damage,
    alive: Alive,
) -> tuple[int, int, Iterator[av.VideoFrame]] | None:
    """The frames from a number on, at most the one that is wanted: that number, the first one's timestamp, and they.

    None where the file has to be decoded from its beginning. The container is moved.

    Args:
        number_of: finds the number that is wanted, given timestamps of the first frames: see `frame_at`.
        about: what that number is about.
        damage: packets that cannot be decoded are added to it.
        alive: is called now and then while frames come.
    """
    with suppress(av.FFmpegError, OSError, ValueError, IndexError):  # IndexError: see packets.py
        record = frame_index(path)
        if not record.jumps:
            return None
        number = record.resync(number_of(record.times))
        known = number >= _BEFORE
        if _takes_a_moment(about - (number if known else 0), stream):
            frames = record.jump(container, stream, number, damage) if known else None
            return None if frames is None else (number, record.times[number], record.note(frames, number, alive))
        times = _film(path)
        wanted = number_of(times) if times else None
        found = None if wanted is None else _far(path, container, stream, times, wanted, damage)
        return None if wanted is None or found is None else (wanted, times[wanted], found)
    return None


def frame_at(times: Sequence[int], seconds: float, base: Fraction, longest: float) -> int | None:
    """The number of the frame that is shown so long after the first; None where that is not known yet.

    -1 where the timestamps have jumped before that, so that they do not tell.

    Args:
        times: rising, of the frames from the first on, in units of `base` seconds.
        longest: gap that is no jump, in seconds.
    """
    number = bisect_right(times, times[0] + (seconds + CLOSE) / base) - 1 if times else 0
    gap = max((later - earlier for earlier, later in pairwise(times[: number + 2])), default=0)
    if gap * base > longest:
        return -1
    return number if number + 1 < len(times) else None


def _takes_a_moment(frames: int, stream: av.VideoStream) -> bool:
    return frames * stream.codec_context.width * stream.codec_context.height <= _MOMENT


def _far(
    path: Path,
    container: "av.container.InputContainer",
    stream: av.VideoStream,
    times: Sequence[int],
    wanted: int,
    damage: Damage,
) -> Iterator[av.VideoFrame] | None:
    """By the timestamps of a film's packets, if jumps to two key frames come to the same."""
    keys = _keys(path)
    last = bisect_right(keys, times[wanted - _BEFORE]) - 1 if _BEFORE <= wanted < len(times) else 0
    if last < 1:  # from the first key frame is from the beginning
        return None
    with opened(str(path)) as other:
        proof = list(islice(_from(other, video_stream(other), keys[last - 1], times[wanted], Damage()), _CHECKED))
    frames = _from(container, stream, keys[last], times[wanted], damage)
    landed = list(islice(frames, _CHECKED))
    same = [_checksum(frame) for frame in landed] == [_checksum(frame) for frame in proof]
    return chain(landed, frames) if landed and same else None


@lru_cache(maxsize=4)
def _film(path: Path) -> Sequence[int]:
    """Timestamps of all frames by the packets; none where the first frames have others."""
    times = sorted(time for time, _ in _packets(path))
    with opened(str(path)) as container:
        sample = [frame.pts for frame in islice(decoded(container, video_stream(container), Damage()), _SAMPLE)]
    return times if sample == times[: len(sample)] and len(set(times)) == len(times) else []


@lru_cache(maxsize=4)
def _keys(path: Path) -> list[int]:
    return sorted(time for time, key in _packets(path) if key)


def _packets(path: Path) -> list[tuple[int, bool]]:
    """Timestamps of all packets, and whether a packet is a key frame. None at all where a timestamp is missing."""
    with opened(str(path)) as container:
        found = [(packet.pts, packet.is_keyframe) for packet in container.demux(video_stream(container)) if packet.size]
    return [] if any(time is None for time, _ in found) else cast(list[tuple[int, bool]], found)


def _from(
    container: "av.container.InputContainer", stream: av.VideoStream, early: int, wanted: int, damage: Damage
) -> Iterator[av.VideoFrame]:
    """Frames from the one whose timestamp is `wanted` on, decoded from a key frame before `early`; none if it does not
    come along.
    """
    container.seek(early, stream=stream)
    frames = decoded(container, stream, damage)
    for frame in frames:
        if frame.pts == wanted:
            yield frame
            break
        if frame.pts is None or frame.pts > wanted:
            return
    yield from frames


def _checksum(frame: av.VideoFrame) -> int:
    """Of the first plane: as many bytes of each row as a frame has pixels, without what pads it."""
    plane = frame.planes[0]
    shape, strides = (plane.height, min(plane.width, plane.line_size)), (plane.line_size, 1)
    rows = np.ndarray(shape, np.uint8, cast(memoryview, plane), 0, strides)
    return zlib.adler32(rows.tobytes())
