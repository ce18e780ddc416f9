"""Refines a split by timing whole stages, all at once and including their updates.

Timing blocks one by one gives a first split. But the blocks of a stage share caches, stages compete for memory
bandwidth, and the optimiser takes time as well, which shifts the balance by some percent. So the stages are timed as
they will run, their blocks' costs are scaled to match, and the split is balanced again, until a split repeats.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.models import part
from common.partition.balance import balance, by_stage
from common.partition.stopwatch import seconds
from common.rule.optimiser import build_optimiser
from common.rule.stage import casting, forbid_in_place_on_input

_TRIES = 4  # splits
_SECONDS, _PASSES = 0.4, 4  # at least, per timing; longer than the stages' start times may differ

Timing = Callable[[list[int]], list[float] | None]


def rebalance(costs: Sequence[float], split: list[int], timing: Timing) -> list[int]:
    """Of the splits tried, return the one with the fastest slowest stage.

    Args:
        costs: costs of the blocks, in any unit.
        split: the initial split.
        timing: times all stages of a split, in ms. If it returns None (they cannot all run at once), refining stops.
    """
    slowest: dict[tuple[int, ...], float] = {}
    while tuple(split) not in slowest and len(slowest) < _TRIES:
        times = timing(split)
        if times is None:
            return split
        slowest[tuple(split)] = max(times)
        costs = _scaled(costs, split, times)
        split = balance(costs, len(split))
    return list(min(slowest.items(), key=lambda tried: tried[1])[0])


def _scaled(costs: Sequence[float], split: Sequence[int], times: Sequence[float]) -> list[float]:
    """Scale the costs of each stage's blocks so that they sum to its measured time."""
    found: list[float] = []
    for mine, own in zip(by_stage(costs, split), times, strict=True):
        total = sum(mine)
        found += [cost * own / total if total else own / len(mine) for cost in mine]
    return found


def time_stage(config: Config, model: nn.Sequential, split: Sequence[int], stage: int, frames: Tensor) -> float:
    """Time a stage's forward and backward pass and update, in ms: the median over some tenths of a second.

    `model` and `frames` must be as they will run (stopwatch.py). The model is changed, so pass a disposable one.
    """
    x: Tensor = frames
    times: list[float] = []
    blocks = part(model, split, stage)
    forbid_in_place_on_input(blocks)
    updates = build_optimiser(blocks, config.optimiser, 0)
    with casting(config, frames.device):
        with torch.no_grad():
            for below in range(stage):
                x = part(model, split, below)(x)
        start = time.perf_counter()
        while len(times) <= _PASSES or time.perf_counter() - start < _SECONDS:
            times.append(_pass(blocks, x.detach().clone().requires_grad_(stage > 0), updates))
    return 1e3 * median(times[1:])


def _pass(blocks: nn.Module, x: Tensor, updates: torch.optim.Optimizer | None) -> float:
    def tick() -> None:
        y = blocks(x)
        if y.requires_grad:
            y.backward(torch.ones_like(y))
        if updates is not None:
            updates.step()
            updates.zero_grad(set_to_none=True)

    return seconds(tick, x.device)
