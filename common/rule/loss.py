"""The loss of the top stage: cross-entropy with the labels, or mean squared error against a frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Task
from common.rule.packet import Packet

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


class Objective:
    """The loss of a task.

    Attributes:
        correct: number of rows classified correctly since last zeroed, a 0-d int64 tensor.
    """

    def __init__(self, task: Task, label_smoothing: float = 0.0) -> None:
        self.task, self.label_smoothing = task, label_smoothing
        self.correct = torch.zeros((), dtype=torch.int64)

    def __call__(self, y: Tensor, held: Packet, target: Target | None, rows: slice = EVERY_ROW) -> Tensor:
        """The mean loss over rows, computed in float32 for half-precision outputs.

        Rows whose target belongs to another clip count as zero: for `predict`, the clip ends before the target frame.

        Args:
            y: the model's output for `rows` of `held`: [rows, classes], or of the target's shape.
            held: the packet with the clips and labels.
            target: frame-sized target; None for tasks with labels.
            rows: the part of the batch that `y` is for (a micro-batch).
        """
        if y.dtype in (torch.bfloat16, torch.float16):
            y = y.float()
        if self.task == "classify":
            return self._classify(y, held.label_tensor[rows])
        assert target is not None, "tasks without labels have frame-sized targets"
        return _squared_error(y, target.tensor[rows], target.clips[rows] == held.clips[rows])

    def _classify(self, y: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(y.device, non_blocking=True)
        if self.correct.device != y.device:
            self.correct = self.correct.to(y.device)
        self.correct += (y.detach().argmax(1) == labels).sum()
        return F.cross_entropy(y, labels, label_smoothing=self.label_smoothing)


def _squared_error(y: Tensor, target: Tensor, valid: NDArray[Any]) -> Tensor:
    if valid.all():
        return F.mse_loss(y, target)
    error = F.mse_loss(y, target, reduction="none").flatten(1).mean(1)
    return error[torch.from_numpy(valid).to(y.device)].sum() / len(valid)
