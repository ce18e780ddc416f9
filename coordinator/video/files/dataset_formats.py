"""Data set formats: which videos a data set names and what their labels are, before any video is opened.

folders     root/<class>/<clip>.mp4                          labels are the folder names
list        lines of `path label`                            labels are numbers or names
segments    lines of `path start end label`                  parts of long videos, in seconds or frames
table       a CSV file with columns path, label             also start, end for segments; found by its header
frames      lines of `folder total_frames label`             frames as jpg or png files in the folder
ucf101      trainlist01.txt, testlist01.txt, classInd.txt    unmodified
hmdb51      <class>_test_split1.txt                          unmodified: 1 is training, 2 testing, 0 unused
shards      000.tar with 0001.mp4, 0001.cls | 0001.json      WebDataset, on disk or remote
kinetics    label,youtube_id,time_start,time_end,split       files named <id>_<start>_<end>.mp4, in any folder
"""

import os
import re
from pathlib import Path

from common.config.settings import Data, TaskName
from common.errors import DataError
from coordinator.video.files.clip_tables import list_table, looks_like_table
from coordinator.video.files.listing import (
    Entry,
    Listing,
    check_label,
    is_count,
    lines_of,
    numbered,
    short,
    stay_inside,
)
from coordinator.video.files.official_splits import list_hmdb51, list_kinetics, list_ucf101
from coordinator.video.files.segment_lists import list_segments
from coordinator.video.files.segments import looks_like_segments
from coordinator.video.files.shard_lists import list_shards
from coordinator.video.files.video_folders import SUFFIXES, hidden, list_folder

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/{1,2}[^/]")  # a Path keeps one of the slashes


def listing(data: Data, part: str, labelled: bool, task: TaskName = "classify") -> Listing:
    """List the videos of `data.train` or `data.val` (`part`: "train" or "val").

    `task`: what labels are for; those in lists of tasks other than "classify" are left as text.

    Raises:
        DataError: a list cannot be read or has an invalid line.
    """
    source = data.train if part == "train" else data.val
    assert source is not None
    kind = guess(source, data.videos) if data.format == "auto" else data.format
    if kind == "shards":
        return list_shards(source, data, labelled, task == "classify")
    if isinstance(source, str):
        raise DataError(f"{source}: only shards, with the suffix .tar, are read from an address (docs/data.md)")
    if kind == "folders":
        return list_folder(source, labelled)
    videos = data.videos or (source if source.is_dir() else source.parent)
    found = _listed(kind, source, videos, data, part, labelled, task == "classify")
    for entry in found.entries:
        stay_inside(entry, source, videos)
    return found


def _listed(kind: str, source: Path, videos: Path, data: Data, part: str, labelled: bool, classes: bool) -> Listing:
    if kind == "ucf101":
        return list_ucf101(source, videos, data.fold, part)
    if kind == "hmdb51":
        return list_hmdb51(source, videos, data.fold, part)
    if kind == "kinetics":
        return list_kinetics(source, videos, part, labelled)
    if kind == "table":
        return list_table(source, videos, data, part, labelled, classes)
    if kind == "segments":
        return list_segments(source, videos, data, labelled, classes)
    read = _list if kind == "list" else _frames
    return read(source, videos, labelled, classes)


def guess(source: Path | str, videos: Path | None = None) -> str:
    """Guess the format of `source` from its type, its name and, for a list, its first line."""
    if isinstance(source, str) or source.suffix.lower() == ".tar":
        return "shards" if str(source).endswith(".tar") else "folders"
    if source.is_dir():
        if any(source.glob("*.tar")):
            return "shards"
        if (source / "classInd.txt").is_file():
            return "ucf101"
        return "hmdb51" if any(not hidden(file.name) for file in source.glob("*_test_split[0-9]*.txt")) else "folders"
    if source.suffix.lower() in (".csv", ".tsv"):
        return "table" if looks_like_table(_first_line(source)) else "kinetics"
    if source.suffix.lower() != ".txt":
        return "folders"
    if re.fullmatch(r"(train|test)list\d+\.txt", source.name) and (source.parent / "classInd.txt").is_file():
        return "ucf101"
    line = _first_line(source)
    if line.endswith(".tar"):
        return "shards"
    if looks_like_table(line):
        return "table"
    if looks_like_segments(line, videos or source.parent, SUFFIXES):
        return "segments"
    words = line.rsplit(None, 2)
    is_frames = len(words) > 1 and words[1].isdecimal() and os.path.isdir((videos or source.parent) / words[0])
    return "frames" if is_frames else "list"


def _first_line(file: Path) -> str:
    return next((line for _, line in lines_of(file)), "")


def quarantined(file: Path | None) -> set[str]:
    """What a file written by `sideways check --quarantine` leaves out, one a line. Raises DataError."""
    return {in_quarantine(Path(line)) for _, line in lines_of(file)} if file else set()


def in_quarantine(path: Path) -> str:
    """How a video is named there: by its absolute path, or by its address, such as s3://…/000.tar/0001.mp4."""
    return str(path) if _ADDRESS.match(str(path)) else os.path.abspath(path)


def _list(file: Path, videos: Path, labelled: bool, classes: bool) -> Listing:
    entries: list[Entry] = []
    if looks_like_table(_first_line(file)):
        raise DataError(f'{file} has the header of a table: set data.format = "table", or leave it out')
    for number, line in lines_of(file):
        *before, last = line.rsplit(None, 1)
        path, label = (before[0], last) if before else (line, "")
        if not labelled:
            path, label = line if os.path.isfile(videos / line) else path, "video"
        elif not label:
            raise DataError(
                f"{file}, line {number}: {short(line)!r} is not `path label`: commas divide columns in a .csv file "
                'with a header, `path,label`; without labels set task = "autoencode"'
            )
        where = f"{file}, line {number}"
        if classes:
            check_label(label, where)
        if not entries and Path(path).suffix.lower() not in SUFFIXES and not os.path.exists(videos / path):
            raise DataError(
                f"{where}: {short(line)!r} is not a video: if it is a header, remove it; if commas divide the "
                'columns, begin with the header `path,label` and set data.format = "table"'
            )
        entries.append(Entry(path, videos / path, label, where=where))
    return numbered(entries, file, "path label", classes)


def _frames(file: Path, videos: Path, labelled: bool, classes: bool) -> Listing:
    entries = []
    for number, line in lines_of(file):
        words = line.rsplit(None, 2)
        if not labelled and not (len(words) == 3 and is_count(words[1])):
            words = [*line.rsplit(None, 1), "video"]
        if len(words) != 3 or not is_count(words[1]) or int(words[1]) < 1:
            raise DataError(f"{file}, line {number}: {short(line)!r} is not `folder total_frames label`")
        folder, total, label = words
        where = f"{file}, line {number}"
        if classes:
            check_label(label, where)
        entries.append(Entry(folder, videos / folder, label if labelled else "video", int(total), where))
    return numbered(entries, file, "folder total_frames label", classes)
