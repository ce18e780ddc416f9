"""Exact seeking: jump to a frame in the middle of a file, the same one that decoding from the beginning reaches.

A container's metadata cannot be relied on. Timestamps may be in decoding order (AVI), decoding may be unable to start
at a key frame (intra refresh), packets may yield no frame. So every jump is verified:

near    If decoding from the beginning reaches the frame within half a minute, that is done once. Timestamps and
        checksums are kept: later jumps must land on known frames, and continue from there to frames not known yet.
far     Further into a film, frames are numbered by the packets' timestamps, and jumps to two successive key frames
        must yield the same frames. (Packets lost or damaged long before the target go unnoticed; `near` counts them.)

If a jump fails, the file is decoded from its beginning.
"""

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

from coordinator.video.decoding.opening import open_file, state_of, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.resample import CLOSE

_BEFORE = 32  # frames: seek to a key frame this much earlier, as frames around a key frame may be stored out of order
_CHECKED = 17  # frames verified after a jump; H.264 and HEVC predict from at most 16 earlier frames
# half a minute of decoding at most: 4,000 frames of 1920 × 1080, an hour of 320 × 240
_MAX_DECODE_PIXELS = 1 << 33
_HEARTBEAT_FRAMES = 256  # frames between heartbeats
_SAMPLE = 64  # first frames of a film, whose timestamps must match those of its packets
_FILES = 512  # files whose index is kept


Alive = Callable[[], None]


class FrameIndex:
    """Timestamps and checksums of a file's frames, as far as it was decoded from its beginning.

    Attributes:
        times: timestamps of the frames, int64, in units of the stream's time base.
        rising: whether every frame has a timestamp larger than that of the frame before.
        whole: whether all frames of the file are known.
    """

    def __init__(self) -> None:
        self.times, self.rising, self.whole = array("q"), True, False
        self._sums = array("L")
        self._seek_failed = False

    def note(self, frames: Iterator[av.VideoFrame], first: int, alive: Alive) -> Iterator[av.VideoFrame]:
        """Index the file's frames from number `first` on as they pass through, calling `alive` every 256 frames."""
        for number, frame in enumerate(frames, first):
            if number == len(self.times) and self.rising:
                self._add(frame)
            if number % _HEARTBEAT_FRAMES == 0:
                alive()
            yield frame
        self.whole = self.rising

    def resync(self, target: int | None) -> int:
        """The number of the last frame to which a jump can be verified, at most `target`."""
        last = len(self.times) - (1 if self.whole else _CHECKED)
        return last if target is None else min(target, last)

    def jump(
        self, container: "av.container.InputContainer", stream: av.VideoStream, number: int, damage: Damage
    ) -> Iterator[av.VideoFrame] | None:
        """The frames from `number` on, or None if the jump misses them. Changes the container's position."""
        expected = self._sums[number : number + _CHECKED]
        frames = _from(container, stream, self.times[number - _BEFORE], self.times[number], damage)
        landed = list(islice(frames, _CHECKED))
        if [_checksum(frame) for frame in landed] != expected.tolist():
            self._seek_failed = True
            return None
        return chain(landed, frames)

    @property
    def jumps(self) -> bool:
        """Whether jumps into the file work, as far as is known."""
        return self.rising and not self._seek_failed

    def _add(self, frame: av.VideoFrame) -> None:
        if frame.pts is None or (self.times and frame.pts <= self.times[-1]):
            self.rising = False
        else:
            self.times.append(frame.pts)
            self._sums.append(_checksum(frame))


def frame_index(path: Path) -> FrameIndex:
    """This process's index of a file; a new one once the file is modified. Raises OSError."""
    return _indexed(path, _version(path))


_Version = tuple[int, ...]


def _version(path: Path) -> _Version:
    """What tells a file from another that had its path, as /proc/self/fd/3 may name one after another."""
    state = state_of(path)
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


@lru_cache(maxsize=_FILES)
def _indexed(path: Path, version: _Version) -> FrameIndex:
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
    """Jump to the target frame, or to an earlier one from which decoding reaches it. Changes the container's position.

    Args:
        number_of: returns the number of the target frame, given the timestamps of the first frames: see `frame_at`.
        about: an estimate of that number.
        damage: packets that cannot be decoded are added to it.
        alive: called from time to time while frames are decoded.

    Returns:
        Number and timestamp of the frame landed on, and the frames from it on. None if the file has to be decoded
        from its beginning.
    """
    with suppress(av.FFmpegError, OSError, ValueError, IndexError):  # IndexError: see packets.py
        record = frame_index(path)
        if not record.jumps:
            return None
        number = record.resync(number_of(record.times))
        known = number >= _BEFORE
        if _is_cheap(about - (number if known else 0), stream):
            frames = record.jump(container, stream, number, damage) if known else None
            return None if frames is None else (number, record.times[number], record.note(frames, number, alive))
        times = packet_timestamps(path)
        target = number_of(times) if times else None
        found = None if target is None else _far(path, container, stream, times, target, damage)
        return None if target is None or found is None else (target, times[target], found)
    return None


def frame_at(times: Sequence[int], seconds: float, base: Fraction, longest: float) -> int | None:
    """The number of the frame that is shown `seconds` after the first one.

    Args:
        times: increasing timestamps of the frames from the first on, in units of `base` seconds.
        longest: a larger gap between timestamps, in seconds, counts as a jump.

    Returns:
        The number; None if `times` do not reach that far; -1 if they jump before it and so cannot be relied on.
    """
    number = bisect_right(times, times[0] + (seconds + CLOSE) / base) - 1 if times else 0
    gap = max((later - earlier for earlier, later in pairwise(times[: number + 2])), default=0)
    if gap * base > longest:
        return -1
    return number if number + 1 < len(times) else None


def _is_cheap(frames: int, stream: av.VideoStream) -> bool:
    return frames * stream.codec_context.width * stream.codec_context.height <= _MAX_DECODE_PIXELS


def _far(
    path: Path,
    container: "av.container.InputContainer",
    stream: av.VideoStream,
    times: Sequence[int],
    target: int,
    damage: Damage,
) -> Iterator[av.VideoFrame] | None:
    """The frames from `target` on, numbered by packet timestamps; None unless jumps to two key frames agree."""
    keys = _keys(path, _version(path))
    last = bisect_right(keys, times[target - _BEFORE]) - 1 if _BEFORE <= target < len(times) else 0
    if last < 1:  # the first key frame is the beginning
        return None
    with open_file(path) as other:
        other_frames = list(
            islice(_from(other, video_stream(other), keys[last - 1], times[target], Damage()), _CHECKED)
        )
    frames = _from(container, stream, keys[last], times[target], damage)
    landed = list(islice(frames, _CHECKED))
    same = [_checksum(frame) for frame in landed] == [_checksum(frame) for frame in other_frames]
    return chain(landed, frames) if landed and same else None


def packet_timestamps(path: Path) -> Sequence[int]:
    """Timestamps of all frames, from the packets; empty if they are not unique or the first decoded frames differ.

    Raises av.FFmpegError, OSError or ValueError.
    """
    return _packet_timestamps(path, _version(path))


@lru_cache(maxsize=4)
def _packet_timestamps(path: Path, version: _Version) -> Sequence[int]:
    times = sorted(time for time, _, hidden in _packets(path) if not hidden)
    with open_file(path) as container:
        sample = [frame.pts for frame in islice(decoded(container, video_stream(container), Damage()), _SAMPLE)]
    return times if sample == times[: len(sample)] and len(set(times)) == len(times) else []


@lru_cache(maxsize=4)
def _keys(path: Path, version: _Version) -> list[int]:
    return sorted(time for time, key, _ in _packets(path) if key)


def _packets(path: Path) -> list[tuple[int, bool, bool]]:
    """Each packet's timestamp, and whether it is a key frame, and hidden by an edit list; empty if one lacks a time."""
    with open_file(path) as container:
        packets = container.demux(video_stream(container))
        found = [(packet.pts, packet.is_keyframe, packet.is_discard) for packet in packets if packet.size]
    return [] if any(time is None for time, *_ in found) else cast(list[tuple[int, bool, bool]], found)


def _from(
    container: "av.container.InputContainer", stream: av.VideoStream, early: int, target: int, damage: Damage
) -> Iterator[av.VideoFrame]:
    """Frames from timestamp `target` on, decoded from a key frame at or before `early`; none if no frame has that
    timestamp.
    """
    container.seek(early, stream=stream)
    frames = decoded(container, stream, damage)
    for frame in frames:
        if frame.pts == target:
            yield frame
            break
        if frame.pts is None or frame.pts > target:
            return
    yield from frames


def _checksum(frame: av.VideoFrame) -> int:
    """Adler-32 of the first plane: as many bytes of each row as the frame has pixels, without the row's padding."""
    plane = frame.planes[0]
    if plane.line_size < 0:  # as in AVI files of bitmaps: rows lie in memory from the last to the first
        return zlib.adler32(frame.to_ndarray().tobytes())
    shape, strides = (plane.height, min(plane.width, plane.line_size)), (plane.line_size, 1)
    rows = np.ndarray(shape, np.uint8, cast(memoryview, plane), 0, strides)
    return zlib.adler32(rows.tobytes())
