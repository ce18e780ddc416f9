"""Muon (Jordan et al., 2024) for a stage: torch's, with convolutions as matrices, and Adam for what has no matrix."""

from typing import Any

import torch
from torch import nn


class MuonAndAdam:
    """An optimiser, as far as an `Updater` needs one.

    Updates weights of two and more dimensions with Muon, and vectors with the optimiser that was there. Muon's updates
    are scaled to the size of Adam's, so that one learning rate is for both.
    """

    def __init__(self, other: torch.optim.Optimizer, momentum: float) -> None:
        """`other`: the stage's optimiser, before its first step."""
        groups: list[dict[str, Any]] = []
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []  # a weight, and the matrix that shares its memory
        for group in other.param_groups:
            weights = [value for value in group["params"] if value.ndim > 1]
            matrices = [nn.Parameter(value.detach().view(len(value), -1)) for value in weights]
            self._matrices += zip(weights, matrices, strict=True)
            group["params"] = [value for value in group["params"] if value.ndim <= 1]
            if matrices:
                groups.append({"params": matrices, "factor": group["factor"], "lr": group["lr"]})
        self._muon = _muon(groups, momentum) if groups else None
        self._other = other
        self.param_groups = [*(self._muon.param_groups if self._muon else []), *other.param_groups]

    def step(self) -> None:
        """One update. The gradients are those of the weights."""
        for weight, matrix in self._matrices:
            matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
        if self._muon:
            self._muon.step()
        self._other.step()


def _muon(groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        groups, weight_decay=0.0, momentum=momentum, nesterov=momentum > 0, adjust_lr_fn="match_rms_adamw"
    )
