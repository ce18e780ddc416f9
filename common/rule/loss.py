"""The loss of the top stage: that of the run's task, on the rows that have a target.

A row without one (a frame without a label; for `predict`, the last frames of a clip) counts as zero: so a row's
gradient does not depend on how many others have a target, and micro-batches add up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.rule.host_values import HostValues
from common.rule.packet import Packet
from common.rule.tasks.task import Task

EVERY_ROW = slice(None)


@dataclass(frozen=True)
class Target:
    """A frame-sized target.

    Attributes:
        tensor: float [rows, channels, height, width].
        clips: clip id of each row, int64 [rows].
    """

    tensor: Tensor
    clips: NDArray[np.int64]


class RowsWithTarget(NamedTuple):
    """The rows of a batch that have a target.

    Attributes:
        mean: sum of their losses over the number of all rows, a 0-d tensor.
        y, target: their outputs and targets.
    """

    mean: Tensor
    y: Tensor
    target: Tensor


class RowLoss:
    """The loss of a batch's rows."""

    def __init__(self, task: Task) -> None:
        self._task, self._values = task, HostValues()
        self._of_tick = torch.empty(0)  # the labels of a batch whose micro-batches come one by one
        self._chosen: dict[int, HostValues] = {}  # by their number, as those buffers have one size

    def __call__(
        self, y: Tensor, held: Packet, target: Target | None = None, rows: slice = EVERY_ROW
    ) -> RowsWithTarget:
        """The loss in float32 for half-precision outputs. Arguments as for `Objective`."""
        if y.dtype in (torch.bfloat16, torch.float16):
            y = y.float()
        if target is None:
            known, values = self._task.form.known(held.labels[rows]), self._labels(y.device, held, rows)
        else:
            known, values = target.clips[rows] == held.clips[rows], target.tensor[rows]
        if known.all():
            return RowsWithTarget(self._task.loss(y, values), y, values)
        count = int(np.count_nonzero(known))
        if not count:
            return RowsWithTarget(y[:0].sum(), y[:0], values[:0])
        chosen = self._selected(y.device, np.flatnonzero(known), rows)
        y, values = y[chosen], values[chosen]
        return RowsWithTarget(self._task.loss(y, values) * (count / len(known)), y, values)

    def _selected(self, device: torch.device, index: NDArray[np.int64], rows: slice) -> Tensor:
        if rows is EVERY_ROW:
            return self._chosen.setdefault(len(index), HostValues()).on(device, index)
        return torch.from_numpy(index).to(device)  # of micro-batches, more in a tick than a `HostValues` holds

    def _labels(self, device: torch.device, held: Packet, rows: slice) -> Tensor:
        if held.label_tensor.device == device:
            return held.label_tensor[rows]
        if rows is EVERY_ROW:
            return self._values.on(device, held.labels)
        if rows.start == 0:  # once for all micro-batches of a tick
            self._of_tick = self._values.on(device, held.labels)
        return self._of_tick[rows]


class Objective:
    """The loss of a task, and what is counted for reports.

    Attributes:
        counted: number of rows with a target since last zeroed.
        correct: the sum over them of the share of their labels that are right, a 0-d float32 tensor; 0 without classes.
    """

    def __init__(self, task: Task) -> None:
        self.task, self._loss = task, RowLoss(task)
        self.counted, self.correct = 0, torch.zeros(())

    def __call__(self, y: Tensor, held: Packet, target: Target | None, rows: slice = EVERY_ROW) -> Tensor:
        """The mean loss over rows, a 0-d tensor.

        Args:
            y: the model's output for `rows` of `held`: [rows, classes or numbers], or of the target's shape.
            held: the packet with the clips and labels.
            target: frame-sized target; None for tasks with labels.
            rows: the part of the batch that `y` is for (a micro-batch).
        """
        found = self._loss(y, held, target, rows)
        self.counted += len(found.y)
        if self.task.has_classes:
            if self.correct.device != y.device:
                self.correct = self.correct.to(y.device)
            self.correct += self.task.correct(found.y.detach(), found.target)
        return found.mean
