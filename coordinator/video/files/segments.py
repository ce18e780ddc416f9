"""Segments of long videos, played as clips without cutting files: a list with lines of `path start end label`."""

import os
import re
from collections.abc import Collection, Iterable
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.decoding.timeline import Timeline

FORM = "path start end label"
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")  # 75.5, 1:15.5, 0:01:15.5


class Segment(NamedTuple):
    """From `start` up to `end`, in seconds or frames of the file as `data.segment_unit` says."""

    start: float
    end: float


class Line(NamedTuple):
    """A line of a list, with its number."""

    number: int
    path: str
    segment: Segment
    label: str


def looks_like_segments(line: str, videos: Path, suffixes: Collection[str]) -> bool:
    """Whether a list's first line names a segment: of a file that exists, or with a label and a video's suffix."""
    for count in (3, 2):  # with and without a label
        words = line.rsplit(None, count)
        if len(words) == count + 1 and all(map(_TIME.fullmatch, words[1:3])):
            named = count == 3 and Path(words[0]).suffix.lower() in suffixes
            if named or os.path.isfile(videos / words[0]):
                return True
    return False


def read_segments(lines: Iterable[tuple[int, str]], file: Path, data: Data, labelled: bool) -> list[Line]:
    """Parse a list of segments. Raises DataError."""
    return [_line(number, line, f"{file}, line {number}", data, labelled) for number, line in lines]


def _line(number: int, line: str, where: str, data: Data, labelled: bool) -> Line:
    words = line.rsplit(None, 3)
    if not labelled and not (len(words) == 4 and _TIME.fullmatch(words[1]) and _TIME.fullmatch(words[2])):
        words = [*line.rsplit(None, 2), "video"]
    if len(words) < 4:
        raise DataError(f"{where}: {line!r} is not `{FORM}`")
    path, start, end, label = words
    return Line(number, path, segment_of(start, end, where, data), label if labelled else "video")


def segment_of(start: str, end: str, where: str, data: Data) -> Segment:
    """The segment between two times as text. Raises DataError."""
    segment = Segment(_time(start, where, data), _time(end, where, data))
    if segment.end <= segment.start:
        raise DataError(f"{where}: the segment from {start} to {end} is empty: its end must be larger than its start")
    return segment


def _time(text: str, where: str, data: Data) -> float:
    found = _TIME.fullmatch(text)
    if found is None or (data.segment_unit == "frames" and not text.isdecimal()):
        form = "a number of frames" if data.segment_unit == "frames" else "seconds, such as 75.5 or 1:15.5"
        raise DataError(f"{where}: {text!r} is not {form} (data.segment_unit)")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


FrameRange = tuple[int, int]  # the first frame, and how many are played


def frames_of(segment: Segment, info: MediaInfo, timeline: Timeline, data: Data) -> FrameRange | str:
    """Where a segment begins, and how many frames it plays; or why there is nothing to play.

    The first number counts frames of the file, or instants of `data.fps`.
    """
    total = round(info.seconds * data.fps) if data.fps else info.frames
    start, end = _places(segment, timeline, data)
    first, end = round(start), min(round(end), total)
    if first >= total:
        unit = "s" if data.segment_unit == "seconds" else "frames"
        length = f"{info.seconds:.6g}" if data.segment_unit == "seconds" else info.frames
        return f"the segment from {segment.start:g} to {segment.end:g} {unit} is after its end, at {length} {unit}"
    return first, max(1, ceil((end - first) / data.stride))


def _places(segment: Segment, timeline: Timeline, data: Data) -> tuple[float, float]:
    """A segment's bounds in frames of the file, or instants of `data.fps`."""
    bounds = np.array(segment)
    if data.segment_unit == "seconds":
        bounds = bounds * data.fps if data.fps else timeline.frames_at(bounds)
    elif data.fps:
        bounds = timeline.seconds_at(bounds) * data.fps
    return bounds[0], bounds[1]
