"""What a skip costs: its source pools an output, and its target projects and adds it (common/rule/skips.py)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from common.models.shapes import TensorSpec
from common.partition.balance import BlockCost, Casting, measure
from common.rule.memory_format import arranged
from common.rule.pooling import channels_of, pool_to
from common.rule.skips import Skip, project


@dataclass(frozen=True)
class SkipCost:
    """The cost of a skip per tick.

    Attributes:
        pooling: in the source; `activation_kib` is sent to the target, and as much comes back.
        projection: in the target, with its parameters.
    """

    source: int
    target: int
    pooling: BlockCost
    projection: BlockCost


SkipTimer = Callable[[Sequence[Skip], Sequence[int]], list[SkipCost]]  # of the skips of a split


class _Pooling(nn.Module):
    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, y: Tensor) -> Tensor:
        return pool_to(self._shape, y)


class _Projection(nn.Module):
    def __init__(self, x: Tensor, channels: int) -> None:
        super().__init__()
        self._x = x  # what the stage below sends
        self.weight = nn.Parameter(torch.zeros(channels_of(x.shape), channels, device=x.device))

    def forward(self, y: Tensor) -> Tensor:
        return self._x + project(y, self.weight).to(self._x.dtype)


def skip_timer(
    outputs: Sequence[TensorSpec],
    device: torch.device,
    channels_last: bool = False,
    casting: Casting = nullcontext,
    rounds: int = 7,
) -> SkipTimer:
    """A function that times the skips of a split, as `measure` does blocks. It times each pair of shapes once.

    Args:
        outputs: shape and dtype of each block's output.
        channels_last: the order of maps in memory.
        casting: creates the context of a forward pass.
    """

    @cache
    def timed(source: TensorSpec, target: TensorSpec) -> tuple[BlockCost, BlockCost]:
        y, x = (torch.rand(shape, device=device).to(dtype) for shape, dtype in (source, target))
        # the first block of a model would get no gradient of its input
        projection = _Projection(arranged(x, channels_last), channels_of(y.shape))
        model = nn.Sequential(nn.Identity(), _Pooling(x.shape), projection)
        _, first, second = measure(model, arranged(y, channels_last), casting, rounds)
        return first, second

    def of(skips: Sequence[Skip], split: Sequence[int]) -> list[SkipCost]:
        ends = [outputs[sum(split[: stage + 1]) - 1] for stage in range(len(split))]
        return [SkipCost(source, target, *timed(ends[source], ends[target - 1])) for source, target in skips]

    return of
