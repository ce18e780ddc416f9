"""The labels of clips and of their frames.

What a label is depends on the task: a class, for each class whether it applies, or numbers. It is complete, or there is
none: then the row has no loss and is not counted.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.settings import TaskName
from common.errors import DataError
from common.rule.label_form import LabelForm, Labels, form_of

_ROUNDING = 1e-6  # frames


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """Labels of a clip's frames, as runs of frames with the same label.

    Attributes:
        starts: the first frame of each run, int64 [runs], from 0 on, not decreasing; of equal ones the last holds.
        values: the runs' labels, int64 [runs] or float32 [runs, width]. The last one holds for all later frames.
    """

    starts: NDArray[np.int64]
    values: Labels

    @staticmethod
    def of(values: Labels, form: LabelForm) -> "FrameLabels":
        """From the labels of frames 0, 1, …; later frames have none."""
        values = np.concatenate([values, form.empty(1)])
        rows = values.reshape(len(values), -1)
        same = (rows[1:] == rows[:-1]) | ((rows[1:] != rows[1:]) & (rows[:-1] != rows[:-1]))  # NaN is not itself
        starts = np.concatenate([[0], 1 + np.flatnonzero(~same.all(1))])
        return FrameLabels(starts, values[starts])

    def at(self, frames: NDArray[np.int64]) -> Labels:
        """The labels of frames with these numbers."""
        found: Labels = self.values[np.searchsorted(self.starts, frames, "right") - 1]
        return found

    def after(self, first: int) -> "FrameLabels":
        """The labels of the frames from number `first` on, which becomes 0."""
        return FrameLabels(np.maximum(self.starts - first, 0), self.values)

    def sampled(self, every: float) -> "FrameLabels":
        """The labels of the frames that are played: number j shows frame ⌊j · every⌋ of the file."""
        return self.moved(self.starts / every)

    def moved(self, starts: NDArray[np.float64]) -> "FrameLabels":
        """The labels of frames of which the first at or after the k-th of `starts` begins run k."""
        return FrameLabels(np.ceil(starts - _ROUNDING).astype(np.int64), self.values)


Label = int | tuple[float, ...] | FrameLabels
ChunkLabel = int | tuple[float, ...] | Labels  # of some frames: one for all, or one for each


def label_at(label: Label, frames: Callable[[], NDArray[np.int64]]) -> ChunkLabel:
    """The label of some frames of a clip. `frames`: gives their numbers, after sampling."""
    return label.at(frames()) if isinstance(label, FrameLabels) else label


def mirrored(label: ChunkLabel, numbers: Sequence[int]) -> ChunkLabel:
    """The label of mirrored frames: these of its numbers have the other sign."""
    values = np.array(label)
    values[..., list(numbers)] *= -1
    return tuple(values.tolist()) if isinstance(label, tuple) else values


def frames_by_class(labels: Sequence[tuple[Label, int]], classes: int, most: int | None = None) -> NDArray[np.float64]:
    """The number of frames of each class, [classes], of clips with these labels and numbers of frames.

    `most`: frames of a clip that an epoch plays, from anywhere in it; None: all.
    """
    found = np.zeros(classes)
    for label, frames in labels:
        each = label.at(np.arange(frames)) if isinstance(label, FrameLabels) else np.full(frames, label)
        share = 1.0 if most is None else min(1.0, most / max(1, frames))
        found += share * np.bincount(each[each >= 0], minlength=classes)
    return found


def classes_in(label: Label, task: TaskName) -> set[int]:
    """The numbers of the classes that a clip, or a frame of it, is of."""
    values = label.values if isinstance(label, FrameLabels) else np.array([label])
    if task == "multilabel":
        return set(np.flatnonzero((values > 0.5).any(0)).tolist())
    return set(np.unique(values[values >= 0]).tolist()) if task == "classify" else set()


def described(label: Label) -> Any:
    """A label as JSON, that of frames as a hash."""
    if not isinstance(label, FrameLabels):
        return label
    return hashlib.sha256(label.starts.tobytes() + label.values.tobytes()).hexdigest()


@dataclass(frozen=True)
class Vocabulary:
    """What labels may be.

    Attributes:
        task: of the run.
        names: of the classes, or of the numbers.
    """

    task: TaskName
    names: Sequence[str]

    @property
    def form(self) -> LabelForm:
        """Of a label."""
        return form_of(self.task, len(self.names))

    def label(self, value: object, where: str) -> int | tuple[float, ...]:
        """A clip's or frame's label from a user's object.

        Args:
            value: a class (its number or name); numbers; for several classes, a 0 or 1 for each; or None for no label.
            where: what to name in an error.

        Raises:
            DataError: it is not a label of this task.
        """
        if value is None:
            return self.missing
        if self.task == "classify":
            return self._class(value, where)
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
        if numbers.shape != (len(self.names),):
            raise DataError(
                f"{where}: a label of shape {list(numbers.shape)}, but there are {len(self.names)} "
                f"{self._what} ({_some(self.names)}): give one number for each"
            )
        return self.numbers(numbers.tolist(), where)

    def numbers(self, values: Sequence[float], where: str) -> tuple[float, ...]:
        """Checked numbers. Raises DataError if one is not finite, or for classes neither 0 nor 1."""
        for name, value in zip(self.names, values, strict=True):
            if not math.isfinite(value):
                raise DataError(
                    f"{where}: {name} is {value}, which is no number to learn: correct it, or leave all values of the "
                    "row empty if it has no label"
                )
            if self.task == "multilabel" and value not in (0, 1):
                raise DataError(f"{where}: {name} is {value:g}, but must be 1 if the class applies, else 0")
        return tuple(values)

    def index(self, name: str, where: str) -> int:
        """The number of a class. Raises DataError if it is unknown."""
        found = self._numbers.get(name)
        if found is None:
            raise self._unknown(name, where)
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def missing(self) -> int | tuple[float, ...]:
        """What says that there is no label."""
        return -1 if self.task == "classify" else (math.nan,) * len(self.names)

    @property
    def _what(self) -> str:
        return "classes" if self.task == "multilabel" else "numbers"

    def _class(self, value: object, where: str) -> int:
        if isinstance(value, str):
            return self.index(value, where)
        if isinstance(value, int | np.integer) and 0 <= int(value) < len(self.names):
            return int(value)
        raise self._unknown(value, where)

    def _unknown(self, value: object, where: str) -> DataError:
        return DataError(
            f"{where}: the class {value!r} is not one of the {len(self.names)} of the training clips: "
            f"{_some(self.names)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
