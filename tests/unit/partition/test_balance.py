"""The best contiguous split, and measured costs."""

from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.errors import ConfigError
from common.models.temporal import Motion
from common.models.vgg8 import vgg8
from common.partition.balance import balance, check_split, measure


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.integers(1, 9))
def test_balance_minimises_the_slowest_stage(costs: list[float], stages: int) -> None:
    if stages > len(costs):
        with pytest.raises(ConfigError, match="at most"):
            balance(costs, stages)
        return
    split = balance(costs, stages)
    assert sum(split) == len(costs)
    assert min(split) >= 1
    best = min(
        slowest([b - a for a, b in zip((0, *cuts), (*cuts, len(costs)), strict=True)], costs)
        for cuts in combinations(range(1, len(costs)), stages - 1)
    )
    assert slowest(split, costs) == pytest.approx(best)


def slowest(split: list[int], costs: list[float]) -> float:
    ends = [sum(split[: i + 1]) for i in range(len(split))]
    return max(sum(costs[end - blocks : end]) for blocks, end in zip(split, ends, strict=True))


def test_measured_costs_grow_with_the_work() -> None:
    costs = measure(vgg8(10, width=16), torch.rand(8, 3, 32, 32))
    assert [cost.name for cost in costs] == [*(f"conv{n}" for n in range(1, 8)), "head"]
    assert all(cost.milliseconds > 0 for cost in costs)
    assert costs[1].milliseconds > costs[-1].milliseconds
    assert costs[0].activation_kib == 8 * 16 * 32 * 32 * 4 / 1024
    assert costs[0].parameters == 3 * 16 * 9 + 2 * 16
    assert costs[0].parameter_kib == costs[0].parameters * 4 / 1024


def test_tensors_kept_for_the_backward_pass_are_counted_once() -> None:
    """A Linear keeps its input, the ReLU its output, which the second Linear keeps too. Parameters do not count."""
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    assert measure(model, torch.rand(32, 8), rounds=1)[0].saved_kib == 32 * (8 + 16) * 4 / 1024


def test_blocks_are_measured_in_the_precision_that_they_run_in() -> None:
    model = nn.Sequential(nn.Linear(8, 16))
    cost = measure(model, torch.rand(32, 8), partial(torch.autocast, "cpu", torch.bfloat16), rounds=1)[0]
    assert cost.activation_kib == 32 * 16 * 2 / 1024


def test_what_a_block_remembers_counts_and_is_forgotten() -> None:
    block = Motion((2,))
    cost = measure(nn.Sequential(block), torch.rand(4, 3, 8, 8), rounds=1)[0]
    assert cost.saved_kib == cost.remembered_kib == 3 * 4 * 3 * 8 * 8 * 4 / 1024  # a ring of three frame batches
    assert block.state is None


def test_a_forced_split_must_cover_the_model() -> None:
    check_split([3, 5], 8)
    with pytest.raises(ConfigError, match="sums to 7 blocks, but the model has 8"):
        check_split([3, 4], 8)
