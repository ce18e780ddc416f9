"""The form of labels: what travels with each row of a batch, from the coordinator to the top stage."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config.settings import TaskName

_WORD = 8  # bytes: labels fill whole numbers of a packet's header

Labels = NDArray[Any]


class LabelForm(NamedTuple):
    """The type and width of a row's label. A label is complete, or there is none.

    Attributes:
        width: count of float32 numbers, all NaN if there is no label; None: one class, int64, -1 if there is none.
    """

    width: int | None = None

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the labels of `rows` rows."""
        return (rows,) if self.width is None else (rows, self.width)

    def empty(self, rows: int) -> Labels:
        """The labels of rows that have none: int64 [rows], or float32 [rows, width]."""
        return np.full(rows, -1) if self.width is None else np.full(self.shape(rows), np.nan, np.float32)

    def known(self, labels: Labels) -> NDArray[np.bool_]:
        """Which rows have a label, bool [rows]."""
        known: NDArray[np.bool_] = labels >= 0 if self.width is None else ~np.isnan(labels[:, 0])
        return known

    def words(self, rows: int) -> int:
        """The int64 numbers of a packet's header that the labels fill."""
        return rows if self.width is None else -(-rows * self.width * 4 // _WORD)

    def to_bytes(self, labels: Labels) -> bytes:
        """The labels as little-endian bytes."""
        return labels.astype(self._wire_type, copy=False).tobytes()

    def from_bytes(self, data: bytes, rows: int) -> Labels:
        """Inverse of `to_bytes`. Raises ValueError if they are not labels of `rows` rows."""
        return np.frombuffer(data, self._wire_type).reshape(self.shape(rows))

    @property
    def _wire_type(self) -> str:
        return "<i8" if self.width is None else "<f4"


ONE_CLASS = LabelForm()


def form_of(task: TaskName, classes: int) -> LabelForm:
    """The form of a task's labels. `classes`: number of classes, or of a label's numbers."""
    return LabelForm(classes) if task in ("multilabel", "regress") else ONE_CLASS
