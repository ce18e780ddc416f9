"""Labels that come with the clips themselves: of a dataset of the user's own, or in the JSON of a shard.

of a clip      the number or name of its class; several names; one or several numbers
of frames      a list with one of these for every frame of the file, or None (-1 for classes) where there is none
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from common.config.settings import TaskName
from common.errors import DataError
from coordinator.video.files.label_tables import split_values
from coordinator.video.files.labels import FrameLabels, Label, Vocabulary


def text_of(label: Any, where: str, task: TaskName = "regress", names: Sequence[str] | None = None) -> str:
    """Several classes' names, or numbers, of one clip or frame, as they stand in lists.

    `names`: of the classes that numbers stand for. Raises DataError.
    """
    if isinstance(label, str):
        return label
    with suppress(TypeError, ValueError):
        values = np.atleast_1d(np.asarray(label)).tolist()
        if task == "multilabel":
            values = _applying(values, names, where)
        for name in values:
            if isinstance(name, str) and split_values(name) != (name,):
                raise DataError(
                    f"{where}: the name of the class {name!r} begins or ends with a blank, or has a comma, a "
                    "semicolon or a bar in it, which divide names: rename it"
                )
        if all(isinstance(value, str | int | float) for value in values):
            return ",".join(map(str, values)) or "-"
    raise DataError(f"{where}: its label is {label!r}, but must be numbers, or the names of the classes that apply")


def _applying(values: list[Any], names: Sequence[str] | None, where: str) -> list[Any]:
    """The classes that apply, by their names if they have any."""
    if len(set(values)) < len(values) or any(isinstance(value, float) for value in values):
        raise DataError(
            f"{where}: its label is {values}: list the names of the classes that apply, or their numbers, each once, "
            "not a 0 or 1 for every class"
        )
    if names is None:
        return values
    if wrong := [value for value in values if isinstance(value, int) and not 0 <= value < len(names)]:
        raise DataError(f"{where}: its label has {wrong[0]}, but there are {len(names)} classes, numbered from 0")
    return [names[value] if isinstance(value, int) else value for value in values]


def texts_of_frames(labels: Any, task: TaskName, names: Sequence[str] | None, where: str) -> list[tuple[str, ...]]:
    """The values of every frame's label as text, as a table of frames has them.

    Args:
        labels: a sequence or array with a label for each frame.
        names: of the classes that numbers stand for.

    Raises:
        DataError: it is no such sequence, or one of its labels is none of this task.
    """
    with suppress(AttributeError):
        labels = labels.tolist()  # an array of numpy or torch
    if not isinstance(labels, list | tuple):
        raise DataError(
            f'{where}: its label is {labels!r}, but data.labels_of = "frames" needs a list with a label for every '
            "frame, None (null) where there is none"
        )
    return [_texts(label, task, names, f"{where}, frame {number}") for number, label in enumerate(labels)]


def _texts(label: Any, task: TaskName, names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    if label is None or (task == "classify" and label == -1):
        return ("",)
    if task != "classify":
        text = text_of(label, where, task, names)
        return tuple(text.split(",")) if task == "regress" else (text,)
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(f"{where}: its label is {label!r}, but must be the number or the name of a class")
    if names is None or isinstance(label, str):
        return (str(label),)
    if not 0 <= label < len(names):
        raise DataError(f"{where}: its label is {label}, but there are {len(names)} classes, numbered from 0")
    return (names[label],)


def labels_of_frames(
    labels: Sequence[Label], vocabulary: Vocabulary, frames: int, count: Callable[[], int], where: str
) -> FrameLabels:
    """The labels of a file's frames, before sampling.

    Args:
        frames: those of the file, according to its container; `count` counts them.

    Raises:
        DataError: there are more or fewer labels than frames.
    """
    if len(labels) != frames and len(labels) != (exact := count()):  # containers do not always know it
        raise DataError(
            f"{where}: {len(labels)} labels of frames, but it has {exact} frames: give every frame one, None (null) "
            "where there is none"
        )
    values = vocabulary.form.empty(len(labels))
    for number, label in enumerate(labels):
        values[number] = label
    return FrameLabels.of(values, vocabulary.form)
