"""Remedies against delayed gradients and correlated frames that the product does not have, for the reference.

`apply` changes stages in place, before their first tick. Results are in docs/learning.md.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.muon import MuonAndAdam
from benchmarks.stashing import Stash
from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.stage import Stage

Remedy = Callable[[Stage, float, int], None]  # the number of ticks comes last


def lookahead(stage: Stage, share: float, _: int) -> None:
    """Compute activations and gradients at predicted weights (as Chen et al. 2018, XPipe 2019).

    The weights are moved along the running mean of the latest updates, `share` times the stage's mismatch updates
    ahead, and moved back before the update.
    """
    steps = share * _mismatch(stage)
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


def stashed(stage: Stage, _: float, __: int) -> None:
    """Compute exact gradients at the weights of their frames (benchmarks/stashing.py)."""
    stage.stash = Stash(stage)  # type: ignore[attr-defined]


def momentum_by_delay(stage: Stage, most: float, _: int) -> None:
    """β1 grows with a stage's delay, from its value in the settings in the top stage to `most` in stage 0."""
    share = _mismatch(stage) / Schedule(stage.config.stages).mismatch(0)
    for group in stage.updater.optimiser.param_groups if stage.updater.optimiser else []:
        least, second = group["betas"]
        group["betas"] = least + share * (most - least), second


def muon(stage: Stage, momentum: float, _: int) -> None:
    """Orthogonalised updates of all weights but vectors (benchmarks/muon.py)."""
    if stage.updater.optimiser:
        stage.updater.optimiser = cast(torch.optim.Optimizer, MuonAndAdam(stage.updater.optimiser, momentum))


def bounded(stage: Stage, most: float, _: int) -> None:
    """Shorten each update by which the output for the frames just seen would change by more than `most` of its norm.

    It takes another forward pass. For stages without memory and skips.
    """
    parameters, forward, update = stage.parameters, stage.forward, stage.update
    seen: list[tuple[Packet, Tensor]] = []

    def forward_and_keep(x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        y = forward(x, skipped)
        seen[:] = [(x, y.detach())]
        return y

    def update_within() -> None:
        before = [value.detach().clone() for value in parameters]
        update()
        (x, y), *_ = seen
        with torch.no_grad():
            change = float((stage.run(x.tensor, x.frame) - y).norm() / y.norm())
            for value, old in zip(parameters, before, strict=True) if change > most else ():
                value.lerp_(old, 1 - most / change)

    if parameters:
        stage.forward = forward_and_keep  # type: ignore[method-assign]
        stage.update = update_within  # type: ignore[method-assign]


def levelling(stage: Stage, power: float, ticks: int) -> None:
    """What a stage's rate is divided by, 1 + its mismatch, falls to 1 during the training (for a `power` of 1)."""
    slower, rate, update, done = 1 + _mismatch(stage), stage.config.optimiser.lr, stage.update, [0]

    def update_at_rate() -> None:
        stage.set_rate(rate * slower ** (power * done[0] / ticks))
        done[0] += 1
        update()

    stage.update = update_at_rate  # type: ignore[method-assign]


def _mismatch(stage: Stage) -> int:
    return Schedule(stage.config.stages).mismatch(stage.index)


def stashed_bytes(stages: Sequence[Stage]) -> int:
    """The bytes that the stages kept at most; 0 without `stashed`."""
    return sum(stage.stash.most for stage in stages if hasattr(stage, "stash"))


REMEDIES: dict[str, Remedy] = {
    remedy.__name__: remedy for remedy in (lookahead, stashed, momentum_by_delay, muon, bounded, levelling)
}


def apply(stages: list[Stage], chosen: dict[str, Any], ticks: int) -> None:
    """Apply remedies to all stages. `chosen` maps the names of remedies to their one argument."""
    for name, value in chosen.items():
        for stage in stages:
            REMEDIES[name](stage, value, ticks)
