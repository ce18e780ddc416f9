"""Refines a split by timing whole stages, all at once and including their updates.

Timing blocks one by one gives a first split. But the blocks of a stage share caches, stages compete for memory
bandwidth, and the optimiser takes time as well, which shifts the balance by some percent. So the stages are timed as
they will run, their blocks' costs are scaled to match, and the split is balanced again, until a split repeats.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.models import part
from common.partition.balance import balance, by_stage
from common.partition.stopwatch import seconds
from common.rule.in_place import forbid_in_place_on_input
from common.rule.memories import Memories
from common.rule.optimiser import build_optimiser
from common.rule.pooling import pool_to
from common.rule.precision import casting
from common.rule.skips import merge_of, sources, targets

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

    With its memories, and with what it computes for skips. `model` and `frames` must be as they will run
    (stopwatch.py). The model is changed, so pass a disposable one.
    """
    tensors, times = [frames], list[float]()
    for number in range(len(split)):
        with torch.no_grad(), casting(config, frames.device):
            tensors.append(part(model, split, number)(tensors[-1]))
    tick = _tick(config, part(model, split, stage), stage, tensors)
    start = time.perf_counter()
    while len(times) <= _PASSES or time.perf_counter() - start < _SECONDS:
        times.append(seconds(partial(tick, len(times)), frames.device))
    return 1e3 * median(times[1:])


def _tick(config: Config, blocks: nn.Sequential, stage: int, tensors: Sequence[Tensor]) -> Callable[[int], None]:
    """A function that computes tick k of a stage. `tensors`: the frames, and the outputs of all stages."""
    x, skips = tensors[stage].clone(), config.skip_pairs
    forbid_in_place_on_input(blocks)
    merge = merge_of(config, stage, [y.shape for y in tensors[1:]], 0, x.device)
    skipped = [pool_to(x.shape, tensors[source + 1]).clone() for source in sources(skips, stage)]
    inputs = [tensors[target].shape for target in targets(skips, stage)]
    memories, clips = Memories(blocks, config.channels_last), np.zeros(len(x), np.int64)
    updates = build_optimiser(blocks, config.optimiser, 0)
    for leaf in [x] * (stage > 0) + skipped:
        leaf.requires_grad_()

    def tick(k: int) -> None:
        memories.begin(clips, k, x.device)
        with casting(config, x.device):
            y = blocks(x if merge is None else merge(x, skipped))
        computed = [one for one in (y, *(pool_to(shape, y) for shape in inputs)) if one.requires_grad]
        if computed:
            torch.autograd.backward(computed, [torch.ones_like(one) for one in computed])
        if updates is not None:
            updates.step()
            updates.zero_grad(set_to_none=True)
        if merge is not None:
            merge.updater.update()
        for leaf in (x, *skipped):
            leaf.grad = None

    return tick
