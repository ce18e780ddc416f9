"""What a data set names: entries, and what the formats that are lists have in common."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import PATH_ERRORS, DataError
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.decoding.opening import is_part
from coordinator.video.files.own_dataset import Item
from coordinator.video.files.segments import Segment
from coordinator.video.files.shards import Member

_LARGEST_LIST = 1 << 28  # bytes
MOST_CLASSES = 100_000  # numeric labels must be smaller
_LONGEST_NUMBER = 9  # digits
_BLANKS = " \t\r"  # around a line
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


def stay_inside(entry: Entry, source: Path, videos: Path) -> None:
    """Raise DataError if an entry is outside of `videos`, as lists may be untrusted. Symlinks may lead outside."""
    outside = not Path(os.path.abspath(entry.path)).is_relative_to(os.path.abspath(videos))
    if outside or is_part(entry.path):  # the name may be one by which FFmpeg reads another file
        raise DataError(
            f"{source} lists {short(entry.name)}, which is outside of {videos}: set data.videos to a folder "
            f"that contains all its videos"
        )


def check_label(label: str, where: str) -> None:
    """Raise DataError for a number below 0."""
    if re.fullmatch(r"-\d+", label):
        raise DataError(
            f"{where}: {label} is not a label: classes are 0, 1, … or names. Remove unlabelled clips, or "
            f'set task = "autoencode"'
        )


def numbered(entries: list[Entry], file: Path, form: str, classes: bool) -> Listing:
    """If all labels are numbers they are the classes 0, 1, …; else they are names. `form` is a line's syntax."""
    if not entries:
        raise DataError(f"{file} is empty: it needs a line `{form}` for every clip")
    if not classes or not all(entry.label.isdecimal() for entry in entries):
        return Listing(entries, notes=_contradictions(entries, file))
    if large := [entry for entry in entries if not is_count(entry.label) or int(entry.label) >= MOST_CLASSES]:
        label = short(large[0].label)
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


def is_count(text: str) -> bool:
    """Whether it is a non-negative integer of at most 9 digits."""
    return text.isdecimal() and len(text) <= _LONGEST_NUMBER


def is_utf8(text: str) -> bool:
    """Whether text that was read as `lines_of` does holds no bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(text: str) -> str:
    """Truncate a line for an error message."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Non-blank lines, stripped, with their numbers. Raises DataError if it is not readable text of up to 256 MiB.

    Lines end with a line feed, or a carriage return and one, or all with a carriage return: names of files may hold
    what else Unicode takes for the end of a line.
    """
    try:
        if file.stat().st_size > _LARGEST_LIST:
            raise DataError(f"{file} is larger than {_LARGEST_LIST >> 20} MiB: it cannot be a list of clips")
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error.strerror}") from error
    if b"\0" in content:
        raise DataError(f"{file} is not a list: it is not UTF-8 text. If it was saved as UTF-16, save it as UTF-8")
    text = content.decode("utf-8-sig", PATH_ERRORS)
    numbered = enumerate(text.split("\n" if "\n" in text else "\r"), 1)
    return iter([(number, line.strip(_BLANKS)) for number, line in numbered if line.strip()])
