"""Data set formats: which videos a data set names and what their labels are, before any video is opened.

folders     root/<class>/<clip>.mp4                          labels are the folder names
list        lines of `path label`                            labels are numbers or names
segments    lines of `path start end label`                  parts of long videos, in seconds or frames
frames      lines of `folder total_frames label`             frames as jpg or png files in the folder
ucf101      trainlist01.txt, testlist01.txt, classInd.txt    unmodified
hmdb51      <class>_test_split1.txt                          unmodified: 1 is training, 2 testing, 0 unused
shards      000.tar with 0001.mp4, 0001.cls | 0001.json      WebDataset, on disk or remote
kinetics    label,youtube_id,time_start,time_end,split       files named <id>_<start>_<end>.mp4, in any folder

torchvision reads the official splits only while it builds its own video index, silently leaves out missing files, and
no longer reads video. So the splits are read here, and a test compares the result with torchvision's.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.config.settings import Data, TaskName
from common.errors import DataError
from common.processes.lifecycle import PATH_ERRORS
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.files.listed_labels import text_of
from coordinator.video.files.own_dataset import Item
from coordinator.video.files.segments import FORM, Segment, looks_like_segments, read_segments
from coordinator.video.files.shards import Member, expand, read_shards

_SUFFIXES = (
    ".3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mjpeg "
    ".mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv "
    ".y4m"
)
SUFFIXES = set(_SUFFIXES.split())
_SYSTEM = {"__macosx", "lost+found", "$recycle.bin", "#recycle", "@recycle", "@eadir", "system volume information"}
_LARGEST_LIST = 1 << 28  # bytes
MOST_CLASSES = 100_000  # numeric labels must be smaller
_LONGEST_NUMBER = 9  # digits
_NO_LABEL = 'it has no label: neither .cls nor "label" in .json'
_SHOWN = 120  # characters of a line in a message


@dataclass(frozen=True)
class Entry:
    """A video named by a data set; it may be missing.

    Attributes:
        name: its path as the data set writes it.
        path: where it is expected on disk.
        label: its class name, or the text of its label.
        frames: for a folder of frames, how many the list says it has; None for a video.
        where: the file and line that name it; empty in folders.
        segment: the part of the video that is played; None: all of it.
        item: of a user's dataset, unless it is a file.
        member: where it is in a shard.
        about: the metadata, if they are known already.
        content: the label as it comes with an item or in a shard, where labels are those of frames.
    """

    name: str
    path: Path
    label: str
    frames: int | None = None
    where: str = ""
    segment: Segment | None = None
    item: Item | None = None
    member: Member | None = None
    about: MediaInfo | None = None
    content: Any = None


@dataclass
class Listing:
    """The videos of a data set.

    Attributes:
        entries: the videos, in a fixed order.
        classes: class names, if the format fixes their order; else None.
        notes: for the user: what was found but left out, and contradictory labels.
        bad: what is already known to be unreadable, with the reason.
    """

    entries: list[Entry]
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    bad: dict[Path, str] = field(default_factory=dict)


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
        return _shards(source, data, labelled, task == "classify")
    if isinstance(source, str):
        raise DataError(f"{source}: only shards, with the suffix .tar, are read from an address (docs/data.md)")
    if kind == "folders":
        return _folders(source, labelled)
    videos = data.videos or (source if source.is_dir() else source.parent)
    found = _listed(kind, source, videos, data, part, labelled, task == "classify")
    for entry in found.entries:
        _stay_inside(entry, source, videos)
    return found


def _listed(kind: str, source: Path, videos: Path, data: Data, part: str, labelled: bool, classes: bool) -> Listing:
    if kind == "ucf101":
        return _ucf101(source, videos, data.fold, part)
    if kind == "hmdb51":
        return _hmdb51(source, videos, data.fold, part)
    if kind == "kinetics":
        return _kinetics(source, videos, part, labelled)
    if kind == "segments":
        return _segments(source, videos, data, labelled, classes)
    read = _list if kind == "list" else _frames
    return read(source, videos, labelled, classes)


def _stay_inside(entry: Entry, source: Path, videos: Path) -> None:
    """Raise DataError if an entry is outside of `videos`, as lists may be untrusted. Symlinks may lead outside."""
    if not Path(os.path.abspath(entry.path)).is_relative_to(os.path.abspath(videos)):
        raise DataError(
            f"{source} lists {_short(entry.name)}, which is outside of {videos}: set data.videos to a folder "
            f"that contains all its videos"
        )


def guess(source: Path | str, videos: Path | None = None) -> str:
    """Guess the format of `source` from its type, its name and, for a list, its first line."""
    if isinstance(source, str) or source.suffix.lower() == ".tar":
        return "shards" if str(source).endswith(".tar") else "folders"
    if source.is_dir():
        if any(source.glob("*.tar")):
            return "shards"
        if (source / "classInd.txt").is_file():
            return "ucf101"
        return "hmdb51" if any(not _hidden(file.name) for file in source.glob("*_test_split[0-9]*.txt")) else "folders"
    if source.suffix.lower() == ".csv":
        return "kinetics"
    if source.suffix.lower() != ".txt":
        return "folders"
    if re.fullmatch(r"(train|test)list\d+\.txt", source.name) and (source.parent / "classInd.txt").is_file():
        return "ucf101"
    line = next((line for _, line in lines_of(source)), "")
    if line.endswith(".tar"):
        return "shards"
    if looks_like_segments(line, videos or source.parent, SUFFIXES):
        return "segments"
    words = line.rsplit(None, 2)
    is_frames = len(words) > 1 and words[1].isdecimal() and os.path.isdir((videos or source.parent) / words[0])
    return "frames" if is_frames else "list"


def quarantined(file: Path | None) -> set[str]:
    """The absolute paths in a file written by `sideways check --quarantine`, one per line. Raises DataError."""
    return {os.path.abspath(line) for _, line in lines_of(file)} if file else set()


def videos_below(root: Path) -> list[Path]:
    """All video files below a folder, symbolic links followed, sorted by path."""
    return _below(root)[0]


def _below(root: Path) -> tuple[list[Path], Counter[str]]:
    """The video files, and a count of other files per suffix. Hidden and system files are in neither."""
    found, others, visited = [], Counter[str](), set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # visited before: a link may form a cycle
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        for name in names:
            path = Path(folder, name)
            if not _hidden(name) and path.is_file():
                if path.suffix.lower() in SUFFIXES:
                    found.append(path)
                else:
                    others[path.suffix.lower() or "without suffix"] += 1
    return sorted(found), others


def _hidden(name: str) -> bool:
    """Whether a file or folder is hidden or of the system, judging by its name: .Trash-1000, ._clip.mp4, __MACOSX."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _folders(root: Path, labelled: bool) -> Listing:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: set data.train and data.val to folders or lists of videos")
    videos, others = _below(root)
    files = [path for path in videos if not labelled or path.parent != root]
    names = [path.relative_to(root) for path in files]
    labels = [name.parts[0] if labelled else "video" for name in names]
    found = zip(names, files, labels, strict=True)
    entries = [Entry(name.as_posix(), path, label) for name, path, label in found]
    return Listing(entries, notes=[*_others(root, others), *(_no_class(root, videos, entries) if labelled else [])])


def _others(root: Path, others: "Counter[str]") -> list[str]:
    if not others:
        return []
    shown = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return [f"{others.total()} files in {root} do not have the suffix of a video and are left out: {shown}"]


def _no_class(root: Path, videos: list[Path], entries: list[Entry]) -> list[str]:
    """Notes about videos in no class folder, and about class folders without videos."""
    loose = [path for path in videos if path.parent == root]
    notes = [f"{len(loose)} videos are in {root} itself, not in a class folder, and are left out"] if loose else []
    classes = {entry.label for entry in entries}
    empty = sorted(path.name for path in root.iterdir() if path.is_dir() and not _hidden(path.name))
    empty = [name for name in empty if name not in classes]
    return notes + (
        [f"no video in the folders {', '.join(empty[:5])} of {root}: they are not classes"] if empty else []
    )


def _list(file: Path, videos: Path, labelled: bool, classes: bool) -> Listing:
    entries: list[Entry] = []
    for number, line in lines_of(file):
        *before, last = line.rsplit(None, 1)
        path, label = (before[0], last) if before else (line, "")
        if not labelled:
            path, label = line if os.path.isfile(videos / line) else path, "video"
        elif not label:
            raise DataError(
                f'{file}, line {number}: {_short(line)!r} is not `path label`; without labels set task = "autoencode"'
            )
        if classes:
            _check_label(label, file, number)
        if not entries and Path(path).suffix.lower() not in SUFFIXES and not os.path.exists(videos / path):
            raise DataError(f"{file}, line {number}: {_short(line)!r} is not a video: if it is a header, remove it")
        entries.append(Entry(path, videos / path, label, where=f"{file}, line {number}"))
    return _numbered(entries, file, "path label", classes)


def _segments(file: Path, videos: Path, data: Data, labelled: bool, classes: bool) -> Listing:
    entries = []
    for line in read_segments(lines_of(file), file, data, labelled):
        if classes:
            _check_label(line.label, file, line.number)
        where = f"{file}, line {line.number}"
        entries.append(Entry(line.path, videos / line.path, line.label, where=where, segment=line.segment))
    return _numbered(entries, file, FORM, classes)


def _shards(source: Path | str, data: Data, labelled: bool, classes: bool) -> Listing:
    if isinstance(source, Path) and source.suffix == ".txt":
        videos, lines = data.videos or source.parent, [line for _, line in lines_of(source)]
        for line in lines:
            if "://" not in line:
                _stay_inside(Entry(line, videos / line, ""), source, videos)
        names = [line if "://" in line else str(videos / line) for line in lines]
    else:
        folder = isinstance(source, Path) and source.is_dir()
        names = sorted(map(str, Path(source).glob("*.tar"))) if folder else [str(source)]
    entries: list[Entry] = []
    bad: dict[Path, str] = {}
    for contents in read_shards([address for name in names for address in expand(name)], data, SUFFIXES):
        shard = contents.shard
        bad |= {Path(shard.address): contents.failure} if contents.failure else {}
        for sample in contents.samples:
            path = Path(shard.address, sample.name)
            missing = labelled and sample.label in (None, "") and isinstance(sample.about, MediaInfo)
            about = _NO_LABEL if missing else sample.about
            if isinstance(about, str):
                bad[path] = about
                continue
            member = Member(shard, sample.offset, sample.size)
            try:
                label = _text(sample.label, classes, sample.name) if labelled else "video"
            except DataError as error:
                bad[path] = str(error)
                continue
            named = Entry(str(path), path, label, where=str(path), member=member, about=about)
            entries.append(replace(named, content=sample.label if data.labels_of == "frames" else None))
    numbered = _numbered(entries, Path(source), "sample", classes) if entries else Listing([])
    return replace(numbered, bad=bad)


def _text(label: Any, one: bool, where: str) -> str:
    if one and not isinstance(label, str):
        raise DataError(
            f"{where}: its label is {label!r}, but must be the number or the name of one class; for lists set task = "
            '"multilabel" or "regress", or data.labels_of = "frames"'
        )
    return text_of(label, where)


def _check_label(label: str, file: Path, number: int) -> None:
    if re.fullmatch(r"-\d+", label):
        raise DataError(
            f"{file}, line {number}: {label} is not a label: classes are 0, 1, … or names. Remove unlabelled clips, or "
            f'set task = "autoencode"'
        )


def _frames(file: Path, videos: Path, labelled: bool, classes: bool) -> Listing:
    entries = []
    for number, line in lines_of(file):
        words = line.rsplit(None, 2)
        if not labelled and not (len(words) == 3 and _is_count(words[1])):
            words = [*line.rsplit(None, 1), "video"]
        if len(words) != 3 or not _is_count(words[1]) or int(words[1]) < 1:
            raise DataError(f"{file}, line {number}: {_short(line)!r} is not `folder total_frames label`")
        folder, total, label = words
        if classes:
            _check_label(label, file, number)
        label, where = label if labelled else "video", f"{file}, line {number}"
        entries.append(Entry(folder, videos / folder, label, int(total), where))
    return _numbered(entries, file, "folder total_frames label", classes)


def _ucf101(source: Path, videos: Path, fold: int, part: str) -> Listing:
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


def _hmdb51(folder: Path, videos: Path, fold: int, part: str) -> Listing:
    suffix, wanted_tag = f"_test_split{fold}.txt", "1" if part == "train" else "2"
    files = sorted(file for file in folder.glob(f"*{suffix}") if not _hidden(file.name))
    if not files:
        raise DataError(f"no files <class>{suffix} in {folder}: check data.fold = {fold}")
    entries = []
    for file in files:
        label = file.name.removesuffix(suffix)
        for number, line in lines_of(file):
            name, _, tag = line.rpartition(" ")
            if tag not in ("0", "1", "2"):
                raise DataError(f"{file}, line {number}: {_short(line)!r} is not `file 0|1|2`")
            if tag == wanted_tag:
                entries.append(Entry(f"{label}/{name.strip()}", videos / label / name.strip(), label))
    return Listing(entries, [file.name.removesuffix(suffix) for file in files])


def _kinetics(file: Path, videos: Path, part: str, labelled: bool) -> Listing:
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
            f"{file}, line 1: {_short(lines[0])!r} is not the header of a Kinetics list, or no row follows: it lacks "
            f'the columns {", ".join(sorted(missing))}. For lines of `path label` set data.format = "list"'
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
        label = row["label"] if labelled else "video"
        path = by_stem.get(stem, videos / label / f"{stem}.mp4")
        entries.append(Entry(f"{label}/{path.name}", path, label))
    return Listing(entries)


def _numbered(entries: list[Entry], file: Path, form: str, classes: bool) -> Listing:
    """If all labels are numbers they are the classes 0, 1, …; else they are names. `form` is a line's syntax."""
    if not entries:
        raise DataError(f"{file} is empty: it needs a line `{form}` for every clip")
    if not classes or not all(entry.label.isdecimal() for entry in entries):
        return Listing(entries, notes=_contradictions(entries, file))
    if large := [entry for entry in entries if not _is_count(entry.label) or int(entry.label) >= MOST_CLASSES]:
        label = _short(large[0].label)
        raise DataError(f"{file}: the label {label} is too large: numeric labels are 0, 1, … up to {MOST_CLASSES - 1}")
    largest = max(int(entry.label) for entry in entries)
    numbered = [replace(entry, label=str(int(entry.label))) for entry in entries]
    return Listing(numbered, [str(number) for number in range(largest + 1)], _contradictions(numbered, file))


def _contradictions(entries: list[Entry], file: Path) -> list[str]:
    """A note about clips that are listed more than once with different labels."""
    labels: dict[tuple[str, Segment | None], str] = {}
    twice = [
        entry.name for entry in entries if labels.setdefault((entry.name, entry.segment), entry.label) != entry.label
    ]
    return (
        [f"{len(twice)} lines of {file} repeat a clip with a different label, the first: {twice[0]}"] if twice else []
    )


def _is_count(text: str) -> bool:
    """Whether it is a non-negative integer of at most 9 digits."""
    return text.isdecimal() and len(text) <= _LONGEST_NUMBER


def _short(text: str) -> str:
    """Truncate a line for an error message."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Non-blank lines, stripped, with their numbers. Raises DataError if it is not readable text of up to 256 MiB."""
    try:
        if file.stat().st_size > _LARGEST_LIST:
            raise DataError(f"{file} is larger than {_LARGEST_LIST >> 20} MiB: it cannot be a list of clips")
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error.strerror}") from error
    if b"\0" in content:
        raise DataError(f"{file} is not a list: it is not UTF-8 text. If it was saved as UTF-16, save it as UTF-8")
    text = content.decode("utf-8-sig", PATH_ERRORS)
    numbered = enumerate(text.splitlines(), 1)
    return iter([(number, line.strip()) for number, line in numbered if line.strip()])
