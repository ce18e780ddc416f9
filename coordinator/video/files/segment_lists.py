"""Lists of segments: parts of long videos, played as clips."""

from pathlib import Path

from common.config.settings import Data
from coordinator.video.files.listing import Entry, Listing, check_label, lines_of, numbered
from coordinator.video.files.segments import FORM, read_segments


def list_segments(file: Path, videos: Path, data: Data, labelled: bool, classes: bool) -> Listing:
    """Lines of `path start end label`. Raises DataError."""
    entries = []
    for line in read_segments(lines_of(file), file, data, labelled):
        where = f"{file}, line {line.number}"
        if classes:
            check_label(line.label, where)
        entries.append(Entry(line.path, videos / line.path, line.label, where=where, segment=line.segment))
    return numbered(entries, file, FORM, classes)
