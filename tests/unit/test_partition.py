"""The split is the best contiguous one; the costs are measured."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.models.vgg8 import vgg8
from common.partition import balance, check_split, measure


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.integers(1, 9))
def test_no_contiguous_split_has_a_faster_slowest_stage(costs: list[float], stages: int) -> None:
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


def test_measured_costs_follow_the_work() -> None:
    costs = measure(vgg8(10, width=16), torch.rand(8, 3, 32, 32))
    assert [cost.name for cost in costs] == [*(f"conv{n}" for n in range(1, 8)), "head"]
    assert all(cost.milliseconds > 0 for cost in costs)
    assert costs[1].milliseconds > costs[-1].milliseconds
    assert costs[0].activation_kib == 8 * 16 * 32 * 32 * 4 / 1024


def test_a_forced_split_must_cover_the_model() -> None:
    check_split([3, 5], 8)
    with pytest.raises(ConfigError, match="places 7 blocks, but the model has 8"):
        check_split([3, 4], 8)
