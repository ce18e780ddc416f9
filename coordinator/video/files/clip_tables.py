"""Lists of clips in CSV files, with a header: path,label, or path,start,end,label for parts of long videos."""

import os
from collections.abc import Mapping
from pathlib import Path

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.files.csv_rows import header_of, read_rows
from coordinator.video.files.listing import Entry, Listing, check_label, is_utf8, numbered
from coordinator.video.files.segments import segment_of

_FORM = "path,label"


def looks_like_table(line: str) -> bool:
    """Whether a file's first line is the header of such a list."""
    return "path" in header_of(line)


def list_table(file: Path, videos: Path, data: Data, part: str, labelled: bool, classes: bool) -> Listing:
    """The clips that the rows name. Columns of other names are left out. Raises DataError."""
    header, names, rows = read_rows(file, _FORM)
    needed = ["path", *(["label"] if labelled else []), *(["start", "end"] if {"start", "end"} & set(names) else [])]
    if missing := [name for name in needed if name not in names]:
        raise DataError(
            f"{header}: the header {','.join(names)} lacks {', '.join(missing)}: name the columns {_FORM} or "
            "path,start,end,label; labels in columns of other names are read with data.train_labels and "
            "data.val_labels (docs/data.md)"
        )
    if len({row.get("split") for _, row in rows}) > 1:  # one file for both parts, as Kinetics has
        rows = [(where, row) for where, row in rows if (row["split"] == "train") == (part == "train")]
    entries = [_entry(where, row, videos, data, labelled) for where, row in rows]
    for entry in entries if classes and labelled else ():
        if not entry.label:
            raise DataError(f"{entry.where}: {entry.name} has no label: fill it in, or remove the line")
        check_label(entry.label, entry.where)
    return numbered(entries, file, _FORM, classes)


def _entry(where: str, row: Mapping[str, str], videos: Path, data: Data, labelled: bool) -> Entry:
    path, label = row["path"], row["label"] if labelled else "video"
    if not path:
        raise DataError(f"{where}: the path is empty: fill it in, or remove the line")
    if not is_utf8(label) or not (is_utf8(path) or os.path.exists(videos / path)):  # names of files may be no UTF-8
        raise DataError(f"{where}: this is not UTF-8 text: save the file as UTF-8, in a spreadsheet as CSV UTF-8")
    segment = segment_of(row["start"], row["end"], where, data) if "start" in row else None
    return Entry(path, videos / path, label, where=where, segment=segment)
