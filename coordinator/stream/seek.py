"""Jumping to a frame in the middle of a long file, exactly the one that decoding from the beginning would come to.

The packets' timestamps, read without decoding, number the frames. Decoding begins at a key frame well before the one
that is wanted, and it must come along with its very timestamp; else the file is decoded from its beginning.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path

import av

from coordinator.stream.probe import opened, video_stream
from coordinator.stream.timing import CLOSE, LONGEST_GAP, resample

_BEFORE = 32  # frames: key frames are looked for so much earlier, as frames around them may be stored out of order


def place(
    container: "av.container.InputContainer",
    first: av.VideoFrame,
    path: Path,
    stride: int,
    fps: float | None,
    skip: int,
) -> Iterator[av.VideoFrame] | None:
    """The frames after the first `skip`, at a stride or a rate; None where it cannot be told which they are.

    The container stands behind its `first` frame; it is moved.
    """
    stream = container.streams.video[0]
    times = _timestamps(path)
    if times is None or stream.time_base is None or first.pts != times[0]:
        return None
    base = float(stream.time_base)
    origin = times[0] * base
    wanted = bisect_right(times, (origin + skip / fps + CLOSE) / base) - 1 if fps else skip * stride
    if not _BEFORE < wanted < len(times):
        return None
    frames = _from(container, times[wanted - _BEFORE], times[wanted])
    if frames is None:
        return None
    if fps:
        return resample(frames, fps, stream.average_rate, origin, skip)
    return islice(frames, 0, None, stride)


def _timestamps(path: Path) -> list[int] | None:
    """Of all frames, rising; None where they are no reliable numbering."""
    with opened(str(path)) as container:
        stream = video_stream(container)
        times = [packet.pts for packet in container.demux(stream) if packet.size]
        known = sorted(time for time in times if time is not None)
        if len(known) != len(times) or len(set(known)) != len(known) or not known or stream.time_base is None:
            return None
        gap = max((later - earlier for earlier, later in pairwise(known)), default=0)
        return known if gap * float(stream.time_base) <= LONGEST_GAP else None


def _from(container: "av.container.InputContainer", early: int, wanted: int) -> Iterator[av.VideoFrame] | None:
    """Decoded frames from the one whose timestamp is `wanted` on; None if it does not come along."""
    stream = container.streams.video[0]
    container.seek(early, stream=stream)
    decoded = container.decode(stream)
    for frame in decoded:
        if frame.pts == wanted:
            return chain([frame], decoded)
        if frame.pts is None or frame.pts > wanted:
            return None
    return None
