"""Predicts the tick time and the memory of a split from the costs of its blocks and skips."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.partition.balance import BlockCost, by_stage
from common.partition.skip_costs import SkipCost

_PACKETS = 4  # of an edge, at each of its ends: two each way


@dataclass(frozen=True)
class Prediction:
    """Predicted time and memory of a split.

    Attributes:
        stage_ms: forward + backward time of each stage, with its share of the skips.
        tick_ms: tick time of the pipeline: that of the slowest stage, or more if stages must share the host's cores.
        efficiency: sum of all costs / (D × slowest stage), 0 … 1.
        memory_mib: memory of each stage.
        skips: what each skip costs.
    """

    split: list[int]
    stage_ms: list[float]
    tick_ms: float
    efficiency: float
    memory_mib: list[float]
    skips: list[SkipCost] = field(default_factory=list)


def predict(
    costs: Sequence[BlockCost],
    split: Sequence[int],
    input_kib: float,
    max_concurrent_stages: float,
    state: float,
    skips: Sequence[SkipCost] = (),
) -> Prediction:
    """Predict time and memory of a split, assuming that transfers are hidden behind compute.

    Args:
        input_kib: size of a frame batch as float, the input of stage 0.
        max_concurrent_stages: number of stages that the host can run at the same time; with replicas, its share.
        state: number of values that the optimiser keeps per parameter (`optimiser_state`).
        skips: the costs of this split's skips.
    """
    parts = by_stage(costs, split)
    times = stage_times(costs, split, skips)
    edges = [input_kib, *(part[-1].activation_kib for part in parts)]
    memory = [_memory_kib(part, edges[i], edges[i + 1], state) / 1024 for i, part in enumerate(parts)]
    for skip in skips:
        packets = _PACKETS * skip.pooling.activation_kib
        memory[skip.source] += (packets + skip.pooling.saved_kib) / 1024
        memory[skip.target] += (packets + _own_kib([skip.projection], state)) / 1024
    slowest, total = max(times), sum(times)
    tick, efficiency = max(slowest, total / max_concurrent_stages), total / (len(parts) * slowest)
    return Prediction(list(split), times, tick, efficiency, memory, list(skips))


def stage_times(costs: Sequence[BlockCost], split: Sequence[int], skips: Sequence[SkipCost]) -> list[float]:
    """Forward + backward time of each stage in ms, with its share of the skips."""
    times = [sum(cost.milliseconds for cost in part) for part in by_stage(costs, split)]
    for skip in skips:
        times[skip.source] += skip.pooling.milliseconds
        times[skip.target] += skip.projection.milliseconds
    return times


def _memory_kib(part: Sequence[BlockCost], input_kib: float, output_kib: float, state: float) -> float:
    return _own_kib(part, state) + _PACKETS * (input_kib + output_kib)


def _own_kib(part: Sequence[BlockCost], state: float) -> float:
    """Memory of parameters, gradients, optimiser state and saved tensors."""
    return sum(cost.parameter_kib * (2 + state) + cost.saved_kib for cost in part)


def optimiser_state(optimiser: torch.optim.Optimizer | None) -> float:
    """Number of values that an optimiser keeps per parameter, measured with one step on zero gradients.

    Pass the optimiser of a small, disposable model; None gives 0.
    """
    if optimiser is None:
        return 0.0
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimiser.step()
    kept = sum(
        value.numel()
        for state in optimiser.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.dim()
    )
    return kept / sum(weight.numel() for weight in weights)
