"""The loss of the top stage: cross-entropy with the labels, or mean squared error against a frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Task
from common.rule.cross_entropy import CrossEntropy
from common.rule.host_values import HostValues
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

    def __init__(self, task: Task, cross_entropy: CrossEntropy) -> None:
        """`cross_entropy`: for tasks with labels."""
        self.task, self._cross_entropy = task, cross_entropy
        self.correct = torch.zeros((), dtype=torch.int64)
        self._values = HostValues()

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
            on_device = held.label_tensor.device == y.device
            return self._classify(y, held.label_tensor[rows] if on_device else self._send(y.device, held.labels, rows))
        assert target is not None, "tasks without labels have frame-sized targets"
        valid = target.clips[rows] == held.clips[rows]
        if valid.all():
            return F.mse_loss(y, target.tensor[rows])
        error = F.mse_loss(y, target.tensor[rows], reduction="none").flatten(1).mean(1)
        return torch.where(self._send(y.device, target.clips == held.clips, rows), error, 0).sum() / len(valid)

    def _send(self, device: torch.device, values: NDArray[Any], rows: slice) -> Tensor:
        """Rows of an array, on a device."""
        if rows is EVERY_ROW:
            return self._values.on(device, values)
        return torch.from_numpy(values[rows]).to(device)  # micro-batches: more of them in a tick than `_values` holds

    def _classify(self, y: Tensor, labels: Tensor) -> Tensor:
        if self.correct.device != y.device:
            self.correct = self.correct.to(y.device)
        self.correct += (y.detach().argmax(1) == labels).sum()
        return self._cross_entropy(y, labels)
