"""The official splits of UCF101, HMDB51 and Kinetics, unmodified.

torchvision reads the official splits only while it builds its own video index, silently leaves out missing files, and
no longer reads video. So the splits are read here, and a test compares the result with torchvision's.
"""

import csv
from pathlib import Path

from common.errors import DataError
from coordinator.video.files.listing import Entry, Listing, lines_of, short
from coordinator.video.files.video_folders import hidden, videos_below


def list_ucf101(source: Path, videos: Path, fold: int, part: str) -> Listing:
    """trainlist01.txt, testlist01.txt. Raises DataError."""
    name = f"{'train' if part == 'train' else 'test'}list{fold:02d}.txt"
    file = source / name if source.is_dir() else source
    classes = [line.split()[-1] for _, line in lines_of(file.parent / "classInd.txt")]
    entries = []
    for number, line in lines_of(file):
        path = line.split()[0]
        label = path.partition("/")[0]
        if label not in classes:
            raise DataError(f"{file}, line {number}: the class {label!r} is not in classInd.txt")
        entries.append(Entry(path, videos / path, label))
    return Listing(entries, classes)


def list_hmdb51(folder: Path, videos: Path, fold: int, part: str) -> Listing:
    """<class>_test_split1.txt. Raises DataError."""
    suffix, wanted_tag = f"_test_split{fold}.txt", "1" if part == "train" else "2"
    files = sorted(file for file in folder.glob(f"*{suffix}") if not hidden(file.name))
    if not files:
        raise DataError(f"no files <class>{suffix} in {folder}: check data.fold = {fold}")
    entries = []
    for file in files:
        label = file.name.removesuffix(suffix)
        for number, line in lines_of(file):
            name, _, tag = line.rpartition(" ")
            if tag not in ("0", "1", "2"):
                raise DataError(f"{file}, line {number}: {short(line)!r} is not `file 0|1|2`")
            if tag == wanted_tag:
                entries.append(Entry(f"{label}/{name.strip()}", videos / label / name.strip(), label))
    return Listing(entries, [file.name.removesuffix(suffix) for file in files])


def list_kinetics(file: Path, videos: Path, part: str, labelled: bool) -> Listing:
    """A CSV file with a row for every clip. Raises DataError."""
    lines = [line for _, line in lines_of(file)]
    if not lines:
        raise DataError(f"{file} is empty: it needs a header and a row for every clip, as in the lists of Kinetics")
    try:
        rows = list(csv.DictReader(lines))
    except csv.Error as error:
        raise DataError(f"{file} is not a valid CSV file: {error}. Is a quotation mark left open?") from error
    needed = {"youtube_id", "time_start", "time_end"} | ({"label"} if labelled else set())
    if missing := needed - set(rows[0] if rows else ()):
        raise DataError(
            f"{file}, line 1: {short(lines[0])!r} is not the header of a Kinetics list, or no row follows: it lacks "
            f"the columns {', '.join(sorted(missing))}. A list of your own begins with `path,label`; for lines of "
            '`path label`, without a header, set data.format = "list"'
        )
    splits = {row.get("split") for row in rows}
    if len(splits) > 1:  # one file for all splits: rows marked train are training, the others validation
        rows = [row for row in rows if (row["split"] == "train") == (part == "train")]
    by_stem = {path.stem: path for path in videos_below(videos)}
    entries = []
    for number, row in enumerate(rows, 2):
        try:
            stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{file}, row {number}: time_start and time_end are not whole seconds: is the row too short, or a "
                f"quotation mark left open? ({error})"
            ) from error
        label = (row["label"] or "").strip() if labelled else "video"
        if not label:
            raise DataError(f"{file}, row {number}: it has no label: is the row too short?")
        path = by_stem.get(stem, videos / label / f"{stem}.mp4")
        entries.append(Entry(f"{label}/{path.name}", path, label))
    return Listing(entries)
