"""Measures the cost of each block, and finds the contiguous split with the fastest slowest stage."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.errors import ConfigError
from common.models import named_blocks
from common.partition.stopwatch import seconds
from common.rule.memories import Memories

Cost = TypeVar("Cost")
Casting = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class BlockCost:
    """The cost of one block per tick.

    Attributes:
        milliseconds: forward + backward.
        activation_kib: size of its output, which is sent if a stage ends here.
        parameters: number of parameters.
        parameter_kib: size of the parameters.
        saved_kib: what the forward pass saves for the backward pass, without parameters, and what the block remembers.
        remembered_kib: what the block remembers from tick to tick, of all slots.
    """

    name: str
    milliseconds: float
    activation_kib: float
    parameters: int = 0
    parameter_kib: float = 0.0
    saved_kib: float = 0.0
    remembered_kib: float = 0.0


def measure(
    model: nn.Sequential,
    frames: Tensor,
    casting: Casting = nullcontext,
    rounds: int = 7,
) -> list[BlockCost]:
    """Time each block's forward and backward pass on a frame batch: the median of `rounds`, after one warm-up round.

    As in the pipeline, the first block computes no gradient of its input. `model` and `frames` must be as
    they will run (stopwatch.py). Buffers such as running statistics are changed, so pass a disposable model.

    Args:
        casting: creates the context of a forward pass, such as autocast. Each pass casts the weights anew, as a tick
            does.
    """
    costs = []
    x = frames
    for index, (name, block) in enumerate(named_blocks(model)):
        x = x.detach().clone()
        memories = Memories(block)
        times = []
        for tick in range(rounds + 1):
            memories.begin(np.zeros(len(x), np.int64), tick, x.device)
            times.append(_time_block(block, x, index > 0, casting))
        remembered = memories.nbytes
        saved = _saved_bytes(block, x, index > 0, casting) + remembered
        memories.clear()
        with torch.no_grad(), casting():
            y = block(x.clone())
        weights = list(block.parameters())
        costs.append(
            BlockCost(
                name,
                milliseconds=1e3 * median(times[1:]),
                activation_kib=y.nbytes / 1024,
                parameters=sum(weight.numel() for weight in weights),
                parameter_kib=sum(weight.nbytes for weight in weights) / 1024,
                saved_kib=saved / 1024,
                remembered_kib=remembered / 1024,
            )
        )
        x = y
    return costs


def _time_block(block: nn.Module, x: Tensor, with_input_gradient: bool, casting: Casting) -> float:
    x = x.clone().requires_grad_(with_input_gradient)

    def both_passes() -> None:
        with casting():
            y = _apply(block, x)
        if y.requires_grad:
            y.backward(torch.ones_like(y))

    elapsed = seconds(both_passes, x.device)
    block.zero_grad(set_to_none=True)
    return elapsed


def _saved_bytes(block: nn.Module, x: Tensor, with_input_gradient: bool, casting: Casting) -> int:
    """Bytes that a forward pass saves for the backward pass, without parameters. Each storage is counted once."""
    held = {weight.untyped_storage().data_ptr() for weight in block.parameters()}
    sizes: dict[int, int] = {}
    alive = []  # keeps every storage alive, so that no address is reused while counting

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), casting():
        _apply(block, x.clone().requires_grad_(with_input_gradient))
    return sum(sizes.values())


def _apply(block: nn.Module, x: Tensor) -> Tensor:
    return block(x * 1 if x.requires_grad else x)  # a block may write to its input in place, but not to a leaf


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """The number of blocks of each stage, contiguous and none empty, that minimises the largest stage cost.

    Raises:
        ConfigError: there are more stages than blocks.
    """
    blocks = len(costs)
    check_stages(stages, blocks)
    prefix = [0.0]
    for cost in costs:
        prefix.append(prefix[-1] + cost)
    # best[s][b]: smallest possible maximum for the first b blocks in s stages; cut[s][b]: where the last of them starts
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


def max_concurrent_stages(device: torch.device, threads: int) -> int:
    """Number of stages of `threads` threads each that this host can run at once: one per GPU on CUDA."""
    if device.type == "cuda":
        return max(1, torch.cuda.device_count())
    return max(1, len(os.sched_getaffinity(0)) // threads)


def check_depth(config: Config, blocks: int) -> None:
    """Raise ConfigError unless so many blocks can be divided among the stages of a run, as its split says."""
    if config.split is None:
        check_stages(config.stages, blocks)
    else:
        check_split(config.split, blocks)


def check_stages(stages: int, blocks: int) -> None:
    """Raise ConfigError if there are more stages than blocks."""
    if stages > blocks:
        raise ConfigError(f"stages = {stages}, but the model has only {blocks} blocks: use at most {blocks} stages")


def check_split(split: Sequence[int], blocks: int) -> None:
    """Raise ConfigError unless the split covers the model's blocks exactly."""
    if sum(split) != blocks:
        raise ConfigError(f"split = {list(split)} sums to {sum(split)} blocks, but the model has {blocks}")


def by_stage(costs: Sequence[Cost], split: Sequence[int]) -> list[Sequence[Cost]]:
    """Group the blocks' costs by stage."""
    ends = list(accumulate(split))
    return [costs[end - blocks : end] for blocks, end in zip(split, ends, strict=True)]
