"""A split refined by what its stages really take: all of them at once, each whole, with their updates.

Blocks timed one by one, alone, say where to begin. But a stage's blocks share caches, its neighbours compete for the
memory, its optimiser costs time too: together that moves the balance by some percent. So the stages are timed as they
will run, their blocks' costs are scaled to that, and the split is balanced again, until it stays or has been seen.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.models import part
from common.partition.balance import balance, by_stage, synchronise
from common.rule.optimiser import build_optimiser
from common.rule.stage import casting, forbid_in_place_on_input

_TRIES = 4  # splits
_SECONDS, _PASSES = 0.4, 4  # at least, for each; longer than stages may be apart in starting

Timing = Callable[[list[int]], list[float] | None]


def rebalance(costs: Sequence[float], split: list[int], timing: Timing) -> list[int]:
    """The split whose slowest stage was fastest, of those tried.

    Args:
        costs: of the blocks, in any unit.
        split: the one to begin with.
        timing: milliseconds of each stage of a split; None where they cannot all run at once: then nothing is refined.
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
    """The costs of each stage's blocks, such that they add up to its time."""
    found: list[float] = []
    for mine, own in zip(by_stage(costs, split), times, strict=True):
        total = sum(mine)
        found += [cost * own / total if total else own / len(mine) for cost in mine]
    return found


def time_stage(config: Config, model: nn.Sequential, split: Sequence[int], stage: int, frames: Tensor) -> float:
    """Milliseconds of a stage's forward and backward pass and its update: the median over some tenths of a second.

    `model` and `frames` are on the device that will run them; the model is changed, so pass one that is thrown away.
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
    synchronise(x)
    start = time.perf_counter()
    y = blocks(x)
    if y.requires_grad:
        y.backward(torch.ones_like(y))
    if updates is not None:
        updates.step()
        updates.zero_grad(set_to_none=True)
    synchronise(x)
    return time.perf_counter() - start
