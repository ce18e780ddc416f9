"""Remedies against delayed gradients and correlated frames that the product does not have, for the reference.

`apply` changes stages in place, before their first tick. Results are in docs/learning.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.stashing import Stash
from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.stage import Stage

Remedy = Callable[[Stage, float], None]


def lookahead(stage: Stage, share: float) -> None:
    """Compute activations and gradients at predicted weights (as Chen et al. 2018, XPipe 2019).

    The weights are moved along the running mean of the latest updates, `share` times the stage's mismatch updates
    ahead, and moved back before the update.
    """
    steps = share * Schedule(stage.config.stages).mismatch(stage.index)
    parameters = [value for value in stage.blocks.parameters() if value.requires_grad]
    speeds = [torch.zeros_like(value) for value in parameters]
    forward, update, ahead = stage.forward, stage.update, [False]

    def move(by: float) -> None:
        with torch.no_grad():
            for value, speed in zip(parameters, speeds, strict=True):
                value.data.add_(speed, alpha=by)

    def forward_ahead(x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        if not ahead[0]:  # else the last tick had no gradient to update with
            move(steps)
        ahead[0] = True
        return forward(x, skipped)

    def update_behind() -> None:
        move(-steps)
        ahead[0] = False
        before = [value.detach().clone() for value in parameters]
        update()
        for value, old, speed in zip(parameters, before, speeds, strict=True):
            speed.lerp_(value.detach() - old, 0.1)

    stage.forward = forward_ahead  # type: ignore[method-assign]
    stage.update = update_behind  # type: ignore[method-assign]


def stashed(stage: Stage, _: float) -> None:
    """Compute exact gradients at the weights of their frames (benchmarks/stashing.py)."""
    stage.stash = Stash(stage)  # type: ignore[attr-defined]


def stashed_bytes(stages: Sequence[Stage]) -> int:
    """The bytes that the stages kept at most; 0 without `stashed`."""
    return sum(stage.stash.most for stage in stages if hasattr(stage, "stash"))


REMEDIES: dict[str, Remedy] = {"lookahead": lookahead, "stashed": stashed}


def apply(stages: list[Stage], chosen: dict[str, Any]) -> None:
    """Apply remedies to all stages. `chosen` maps the names of remedies to their one argument."""
    for name, value in chosen.items():
        for stage in stages:
            REMEDIES[name](stage, value)
