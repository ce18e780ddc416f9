"""Replicas in one process: several pipelines, whose stages take the mean of their gradients.

The gradient of a stage is (g_0 + g_1 + … + g_{R-1}) · 1/R, added in the order of the replicas, whatever adds it: so the
stage workers (stage_worker/replicas.py) get the same bits.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.models.synced_norm import set_gather
from common.rule.lockstep import Lockstep
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.stage import Stage
from common.rule.tick import Computes


class _WithoutUpdate:
    """A stage whose update is left to somebody else.

    Attributes:
        due: whether an update was asked for since it was last set to False.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage, self.due = stage, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def update(self) -> None:
        self.due = True


class ReplicatedReference:
    """Replicas of a whole pipeline, advanced one tick at a time. A distributed run must match it bit for bit."""

    def __init__(self, replicas: Sequence[Sequence[Stage]], frame_shape: Sequence[int]) -> None:
        """Build the pipelines.

        Args:
            replicas: the stages of each replica, from input to top.
            frame_shape: [slots of a replica, channels, height, width] of the input.
        """
        self.replicas = [list(stages) for stages in replicas]
        self._waiting = [[_WithoutUpdate(stage) for stage in stages] for stages in replicas]
        self._references = [Reference(stages, frame_shape) for stages in self.replicas]
        for reference, waiting in zip(self._references, self._waiting, strict=True):
            reference.computes = cast(list[Computes], waiting)
        self._lockstep = Lockstep(len(self.replicas))
        gathers = [partial(self._lockstep.gather, replica) for replica in range(len(self.replicas))]
        pairs = [(stage, gather) for stages, gather in zip(self.replicas, gathers, strict=True) for stage in stages]
        synced = [set_gather(stage.blocks, gather) for stage, gather in pairs]
        self._synced = any(synced)

    def tick(self, inputs: Sequence[tuple[Packet, Target | None]]) -> list[Tensor | None]:
        """Run one tick of every stage.

        Args:
            inputs: for each replica the frame batch of this tick, and its target for tasks without labels.

        Returns:
            Each replica's loss, a 0-d tensor; None while its top stage has no input.
        """
        pairs = zip(self._references, inputs, strict=True)
        ticks = [partial(reference.tick, *own) for reference, own in pairs]
        losses = self._lockstep.run(ticks) if self._synced else [tick() for tick in ticks]
        for copies, waiting in zip(zip(*self.replicas, strict=True), zip(*self._waiting, strict=True), strict=True):
            if waiting[0].due:
                update(copies)
            for each in waiting:
                each.due = False
        return losses


def update(copies: Sequence[Stage]) -> None:
    """Update all copies of a stage with the mean of their gradients."""
    if copies[0].updater.due:
        for parameters in zip(*(stage.parameters for stage in copies), strict=True):
            _take_mean(parameters)
    for stage in copies:
        stage.update()


def _take_mean(copies: Sequence[nn.Parameter]) -> None:
    """Replace the gradients of one parameter's copies by their mean; a missing one counts as zero."""
    gradients = [copy.grad for copy in copies]
    if all(gradient is None for gradient in gradients):
        return
    parts = [torch.zeros_like(copy) if copy.grad is None else copy.grad for copy in copies]
    mean = mean_of(parts)
    for copy in copies:
        copy.grad = mean.clone()


def mean_of(parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The mean of tensors, added in their order; in `out` if it is given."""
    total = parts[0].clone() if out is None else out.copy_(parts[0])
    for part in parts[1:]:
        total += part
    return total.mul_(1 / len(parts))
