"""The cost of each block, measured, and the contiguous split that makes the slowest stage as fast as possible."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from common.errors import ConfigError
from common.models import named_blocks


@dataclass(frozen=True)
class BlockCost:
    """What one block costs a tick: forward + backward milliseconds, and KiB of its output activation."""

    name: str
    milliseconds: float
    activation_kib: float


def measure(model: nn.Sequential, frames: torch.Tensor, rounds: int = 7) -> list[BlockCost]:
    """Time each block's forward and backward pass on a batch of frames: the median of `rounds`, after one to warm up.

    The first block computes no gradient of its input, as in the pipeline. `model` and `frames` are on the device that
    will run them; buffers such as running statistics are changed, so pass a model that is thrown away.
    """
    costs = []
    x = frames
    for index, (name, block) in enumerate(named_blocks(model)):
        x = x.detach().clone()
        times = [_time_block(block, x, with_input_gradient=index > 0) for _ in range(rounds + 1)]
        with torch.no_grad():
            y = block(x.clone())
        costs.append(BlockCost(name, 1e3 * median(times[1:]), y.numel() * y.element_size() / 1024))
        x = y
    return costs


def _time_block(block: nn.Module, x: torch.Tensor, with_input_gradient: bool) -> float:
    x = x.clone().requires_grad_(with_input_gradient)
    _synchronise(x)
    start = time.perf_counter()
    y = block(x * 1 if with_input_gradient else x)  # a block may write into its input in place; a leaf would refuse
    if y.requires_grad:
        y.backward(torch.ones_like(y))
    _synchronise(x)
    elapsed = time.perf_counter() - start
    block.zero_grad(set_to_none=True)
    return elapsed


def _synchronise(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """Blocks of each stage, contiguous and none empty, such that the largest stage cost is minimal.

    Raises ConfigError when there are more stages than blocks.
    """
    blocks = len(costs)
    if stages > blocks:
        raise ConfigError(f"stages = {stages}, but the model has only {blocks} blocks: use at most {blocks} stages")
    prefix = [0.0]
    for cost in costs:
        prefix.append(prefix[-1] + cost)
    # best[s][b]: smallest possible maximum for the first b blocks in s stages; cut[s][b]: where the last one begins
    best = [[float("inf")] * (blocks + 1) for _ in range(stages + 1)]
    cut = [[0] * (blocks + 1) for _ in range(stages + 1)]
    best[0][0] = 0.0
    for s in range(1, stages + 1):
        for b in range(s, blocks + 1):
            best[s][b], cut[s][b] = min((max(best[s - 1][c], prefix[b] - prefix[c]), c) for c in range(s - 1, b))
    split, end = [], blocks
    for s in range(stages, 0, -1):
        split.append(end - cut[s][end])
        end = cut[s][end]
    return split[::-1]


def check_split(split: Sequence[int], blocks: int) -> None:
    """Raises ConfigError unless the split covers the model's blocks exactly."""
    if sum(split) != blocks:
        raise ConfigError(f"split = {list(split)} places {sum(split)} blocks, but the model has {blocks}")
