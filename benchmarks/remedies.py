"""Remedies against delayed gradients and correlated frames that the product does not have: tried on the reference.

`apply` changes stages in place, before their first tick. What was found of them is in docs/learning.md.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.stage import Stage

Remedy = Callable[[Stage, float], None]


def lookahead(stage: Stage, share: float) -> None:
    """Activations and gradients at weights that are predicted for when the gradient's effect is felt: as many updates
    ahead as the stage's mismatch, times `share`, along the running mean of the last ones (as Chen et al. 2018, XPipe
    2019)."""
    steps = share * Schedule(stage.config.stages).mismatch(stage.index)
    parameters = [value for value in stage.blocks.parameters() if value.requires_grad]
    speeds = [torch.zeros_like(value) for value in parameters]
    forward, update, ahead = stage.forward, stage.update, [False]

    def move(by: float) -> None:
        with torch.no_grad():
            for value, speed in zip(parameters, speeds, strict=True):
                value.data.add_(speed, alpha=by)

    def forward_ahead(x: Packet) -> Tensor:
        if not ahead[0]:  # else the last tick had no gradient to update with
            move(steps)
        ahead[0] = True
        return forward(x)

    def update_behind() -> None:
        move(-steps)
        ahead[0] = False
        before = [value.detach().clone() for value in parameters]
        update()
        for value, old, speed in zip(parameters, before, speeds, strict=True):
            speed.lerp_(value.detach() - old, 0.1)

    stage.forward = forward_ahead  # type: ignore[method-assign]
    stage.update = update_behind  # type: ignore[method-assign]


REMEDIES: dict[str, Remedy] = {"lookahead": lookahead}


def apply(stages: list[Stage], chosen: dict[str, Any]) -> None:
    """`chosen`: remedies by their names, with their one number."""
    for name, value in chosen.items():
        for stage in stages:
            REMEDIES[name](stage, value)
