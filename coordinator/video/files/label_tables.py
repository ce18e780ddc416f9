"""Labels in CSV files: of clips, with a column `path`, or of the frames of one or several clips.

    path,x,y                  numbers, or 0 and 1 for each class, in columns with their names
    path,label                a class; for multilabel several, as in run;jump, or - for none of them
    frame,…                   frames, numbered from 0 as in the file
    start,end,…               frames from start to end - 1
    start_seconds,end_seconds,…

A row whose values are empty has no label.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from coordinator.video.files.csv_rows import read_rows
from coordinator.video.files.labels import Vocabulary
from coordinator.video.files.listing import MOST_CLASSES, is_count, short

PATH, FRAME, SPAN, SECONDS = ("path",), ("frame",), ("start", "end"), ("start_seconds", "end_seconds")
NONE = "-"  # none of the classes
_SEPARATORS = re.compile(r"[,;|]")
_LABEL = ("label", "labels")


@dataclass(frozen=True)
class Values:
    """The values of one label, as text. `where` names the file and the line."""

    where: str
    texts: tuple[str, ...]

    @property
    def missing(self) -> bool:
        """Whether there is no label."""
        return not any(self.texts)


@dataclass(frozen=True)
class Row:
    """A row of a table. `path` is empty without a column of that name; `place` has the values of `frame`, …"""

    path: str
    place: tuple[str, ...]
    values: Values


@dataclass(frozen=True)
class Table:
    """A CSV file.

    Attributes:
        place: names of the columns that say which frames a row is for; none if rows are for clips.
        columns: names of the columns with values.
    """

    file: Path
    place: tuple[str, ...]
    columns: tuple[str, ...]
    rows: list[Row]


def read_table(file: Path, of_frames: bool, with_path: bool) -> Table:
    """Read a CSV file with labels.

    Raises:
        DataError: it cannot be read, or its header or a row is not as above.
    """
    header, names, rows = read_rows(file, _example(of_frames, with_path))
    place = next((each for each in (FRAME, SPAN, SECONDS) if set(each) <= set(names)), ()) if of_frames else ()
    columns = tuple(name for name in names if name not in (*place, *PATH))
    if (of_frames and not place) or (with_path != (PATH[0] in names)) or not columns or len(set(names)) < len(names):
        raise DataError(
            f"{header}: the header {', '.join(names)} does not fit: expected different names such as "
            f"{_example(of_frames, with_path)}"
        )
    found = [
        Row(
            row.get(*PATH, ""),
            tuple(row[name] for name in place),
            Values(where, tuple(row[name] for name in columns)),
        )
        for where, row in rows
    ]
    return Table(file, place, columns, found)


def _example(of_frames: bool, with_path: bool) -> str:
    path = "path," if with_path else ""
    return f"{path}frame,label or {path}start,end,label" if of_frames else f"{path}label or {path}x,y"


def split_values(text: str) -> tuple[str, ...]:
    """The parts of several values in one word: 0.3,0.7 or run,jump."""
    return tuple(part.strip() for part in _SEPARATORS.split(text))


def vocabulary_of(task: str, columns: Sequence[str], labels: Sequence[Values]) -> list[str]:
    """The names of the classes or numbers: of the columns, or of the classes that occur.

    If all classes are numbers, they are 0, 1, … up to the largest. Raises DataError if there are none.
    """
    if task == "regress" or not named_by_values(task, columns):
        return list(columns)
    found = {name for label in labels for name in _classes(task, label)}
    if not found:
        where = labels[0].where if labels else "the labels"
        raise DataError(f"{where}: no clip or frame has a label: fill in the column {', '.join(columns)}")
    if all(name.isdecimal() for name in found):
        if large := [name for name in found if not is_count(name) or int(name) >= MOST_CLASSES]:
            raise DataError(
                f"{labels[0].where}: the label {short(large[0])} is too large: numeric labels are 0, 1, … up to "
                f"{MOST_CLASSES - 1}"
            )
        return [str(number) for number in range(max(map(int, found)) + 1)]
    return sorted(found)


def named_by_values(task: str, columns: Sequence[str]) -> bool:
    """Whether the classes' names are values, not names of columns. Raises DataError for a column too many."""
    if task == "classify" and len(columns) > 1:
        raise DataError(
            f'task = "classify" needs one column with the class, but the labels have {", ".join(columns)}: remove the '
            'others, or set task = "multilabel" or "regress"'
        )
    return task == "classify" or (task == "multilabel" and len(columns) == 1 and columns[0] in _LABEL)


def _classes(task: str, label: Values) -> list[str]:
    if label.missing:
        return []
    names = (label.texts[0],) if task == "classify" else split_values(label.texts[0])
    return [str(int(name)) if is_count(name) else name for name in names if name and name != NONE]


def typed(label: Values, columns: Sequence[str], vocabulary: Vocabulary) -> int | tuple[float, ...]:
    """A label from its values.

    Raises:
        DataError: a class is unknown, or a value missing, not a number, or not finite.
    """
    task, names = vocabulary.task, vocabulary.names
    if label.missing:
        return vocabulary.missing
    if named_by_values(task, columns):
        known = [vocabulary.index(name, label.where) for name in _classes(task, label)]
        return known[0] if task == "classify" else tuple(float(number in known) for number in range(len(names)))
    if not all(label.texts) or len(label.texts) != len(names):
        raise DataError(
            f"{label.where}: {sum(map(bool, label.texts))} of {len(names)} values ({', '.join(names)}): give all of "
            "them, or none if there is no label"
        )
    try:
        return vocabulary.numbers([float(text) for text in label.texts], label.where)
    except ValueError:
        raise DataError(f"{label.where}: {', '.join(label.texts)} are not all numbers: correct the line") from None
