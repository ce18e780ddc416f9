"""Where the labels of a data set's clips come from: its own format, or tables beside it.

data.labels_of says which:

    data.labels_of = "clips"     a table with a column `path`, or the labels in the list or folders
    data.labels_of = "frames"    a table with a column `path`; a folder with a table for each clip; tables beside clips;
                                 with shards and a dataset of the user's own, lists that come with the clips
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from common.config.settings import Data, TaskName
from common.errors import ConfigError, DataError
from coordinator.video.decoding.media_info import MediaInfo, count_frames
from coordinator.video.decoding.timeline import Timeline
from coordinator.video.files.frame_tables import frame_labels
from coordinator.video.files.label_tables import (
    Row,
    Table,
    Values,
    named_by_values,
    read_table,
    split_values,
    typed,
    vocabulary_of,
)
from coordinator.video.files.labels import Label, Vocabulary
from coordinator.video.files.listed_labels import labels_of_frames, texts_of_frames
from coordinator.video.files.listing import Entry
from coordinator.video.files.shards import opened_video


class LabelSource(Protocol):
    """The labels of a data set. Attributes: vocabulary; notes, for the user."""

    vocabulary: Vocabulary
    notes: list[str]

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The label of a clip, or those of its file's frames before sampling. Raises DataError."""


def labels_from_format(data: Data, part: str, labelled: bool) -> bool:
    """Whether the labels are those of the data set's own format, rather than in tables."""
    return labelled and data.labels_of == "clips" and table_of(data, part) is None


def table_of(data: Data, part: str) -> Path | None:
    """The setting `data.train_labels` or `data.val_labels`."""
    return data.train_labels if part == "train" else data.val_labels


def label_source(
    data: Data,
    part: str,
    entries: Sequence[Entry],
    task: TaskName,
    classes: Sequence[str] | None,
    stated: Sequence[str] | None = None,
) -> LabelSource:
    """The labels of the clips of `data.train` or `data.val`.

    Args:
        part: "train" or "val".
        entries: the clips.
        classes: names of the classes or numbers to use; by default those that the labels name.
        stated: names of the classes that the data set states.

    Raises:
        DataError: labels are missing or malformed, or do not fit `classes`.
        ConfigError: the settings name no labels.
    """
    table = table_of(data, part)
    if data.labels_of == "frames" and table is None and any(entry.item or entry.member for entry in entries):
        return _FrameLists(data, entries, task, classes, stated)
    if data.labels_of == "frames":
        return _FrameTables(data, table, entries, task, classes)
    if table is not None:
        return _ClipTable(table, entries, task, classes)
    if entries and not entries[0].where:
        raise ConfigError(
            f'task = "{task}": folders name one class for each clip: set data.{part}_labels to a CSV file of '
            f"`path,…` (docs/data.md), or data.{part} to a list of `path label`, such as `clip.mp4 0.3,0.7`"
        )
    return _Listed(entries, task, classes or stated)


def fitting(
    task: TaskName,
    columns: Sequence[str],
    labels: Sequence[Values],
    classes: Sequence[str] | None,
    file: str,
) -> Vocabulary:
    """The vocabulary of labels. Raises DataError if they do not fit `classes`, those of the training clips."""
    if classes is None:
        return Vocabulary(task, vocabulary_of(task, columns, labels))
    names = list(classes) if named_by_values(task, columns) else list(columns)
    if names != list(classes):
        raise DataError(
            f"{file}: the columns {', '.join(names)} are not those of the training clips, {', '.join(classes)}: "
            "give both the same, in the same order"
        )
    return Vocabulary(task, list(classes))


class _FrameTables:
    """Labels of frames."""

    def __init__(
        self, data: Data, where: Path | None, entries: Sequence[Entry], task: TaskName, classes: Sequence[str] | None
    ) -> None:
        self.notes: list[str] = []
        self._data = data
        if where is not None and not where.is_dir():
            self._tables = _by_path(read_table(where, of_frames=True, with_path=True), entries)
        else:
            self._tables = {entry.name: _table_of_clip(entry, where) for entry in entries}
        first = next(iter(self._tables.values()))
        for table in self._tables.values():
            if table.columns != first.columns:
                raise DataError(
                    f"{table.file}: its columns are {', '.join(table.columns)}, but those of {first.file} are "
                    f"{', '.join(first.columns)}: give all clips the same"
                )
        values = [row.values for table in self._tables.values() for row in table.rows]
        self.vocabulary = fitting(task, first.columns, values, classes, str(where or first.file))

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The labels of the frames of a clip's file."""
        table, count = self._tables[entry.name], partial(_count, entry, info, self._data)
        return frame_labels(table, table.rows, self.vocabulary, entry.path, info, timeline, count)


def _count(entry: Entry, info: MediaInfo, data: Data) -> int:
    """The frames of a video, by its packets if that is possible."""
    if entry.member is not None:
        with opened_video(entry.member, data) as path:
            return count_frames(path)
    return info.frames if entry.item is not None or not info.rate else count_frames(entry.path)


class _FrameLists:
    """Labels of frames that come with the clips."""

    def __init__(
        self,
        data: Data,
        entries: Sequence[Entry],
        task: TaskName,
        classes: Sequence[str] | None,
        stated: Sequence[str] | None,
    ) -> None:
        self.notes: list[str] = []
        self._data = data
        self._values = {
            entry.where: [
                Values(f"{entry.where}, frame {number}", texts)
                for number, texts in enumerate(texts_of_frames(entry.content, task, stated, entry.where))
            ]
            for entry in entries
        }
        every = [values for listed in self._values.values() for values in listed]
        width = next((len(values.texts) for values in every if not values.missing), 1)
        self._columns = [str(number) for number in range(width)] if task == "regress" else ["label"]
        self.vocabulary = fitting(task, self._columns, every, classes or stated, entries[0].where)

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The labels of the frames of a clip's file."""
        labels = [typed(values, self._columns, self.vocabulary) for values in self._values[entry.where]]
        count = partial(_count, entry, info, self._data)
        return labels_of_frames(labels, self.vocabulary, info.frames, count, entry.where)


def _by_path(table: Table, entries: Sequence[Entry]) -> dict[str, Table]:
    """A table's parts by the names of the clips. A clip that it does not name has no labels."""
    rows: dict[str, list[Row]] = {Path(entry.name).as_posix(): [] for entry in entries}
    for row in table.rows:
        if (own := rows.get(Path(row.path).as_posix())) is not None:
            own.append(row)
    return {entry.name: replace(table, rows=rows[Path(entry.name).as_posix()]) for entry in entries}


def _table_of_clip(entry: Entry, folder: Path | None) -> Table:
    clip = entry.path if folder is None else folder / entry.name
    file = clip.with_name(f"{clip.name}.csv") if entry.frames is not None else clip.with_suffix(".csv")
    if not file.is_file():
        raise DataError(
            f"there is no file {file} with the labels of the frames of {entry.name}: write it, with nothing but a "
            "header if none has a label, or set data.train_labels or data.val_labels to where they are (docs/data.md)"
        )
    return read_table(file, of_frames=True, with_path=False)


class _Listed:
    """Labels in the lines of a list."""

    def __init__(self, entries: Sequence[Entry], task: TaskName, classes: Sequence[str] | None) -> None:
        self.notes: list[str] = []
        texts = [split_values(entry.label) if task == "regress" else (entry.label,) for entry in entries]
        self._values = [Values(entry.where, text) for entry, text in zip(entries, texts, strict=True)]
        self._columns = [str(number) for number in range(len(texts[0]))] if task == "regress" else ["label"]
        self._by_where = {values.where: values for values in self._values}
        self.vocabulary = fitting(task, self._columns, self._values, classes, entries[0].where)

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The label of a clip."""
        return typed(self._by_where[entry.where], self._columns, self.vocabulary)


class _ClipTable:
    """Labels of clips in a table."""

    def __init__(self, file: Path, entries: Sequence[Entry], task: TaskName, classes: Sequence[str] | None) -> None:
        table = read_table(file, of_frames=False, with_path=True)
        self._columns, self._by_path = table.columns, dict[str, Values]()
        for row in table.rows:
            path = Path(row.path).as_posix()
            if path in self._by_path:
                raise DataError(f"{row.values.where}: {path} has a label already: remove one of the lines")
            self._by_path[path] = row.values
        names = {Path(entry.name).as_posix() for entry in entries}
        if missing := sorted(names - self._by_path.keys()):
            raise DataError(
                f"{file}: {len(missing)} of {len(names)} clips have no line, the first: {missing[0]}. Add them, with "
                "empty values if they have no label; paths are as the data set writes them"
            )
        unused = len(self._by_path.keys() - names)
        self.notes = [f"{unused} lines of {file} are for clips that are not played"] if unused else []
        self.vocabulary = fitting(task, self._columns, list(self._by_path.values()), classes, str(file))

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The label of a clip."""
        return typed(self._by_path[Path(entry.name).as_posix()], self._columns, self.vocabulary)
