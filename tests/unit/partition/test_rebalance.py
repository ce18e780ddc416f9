"""Refining a split by timing its stages together."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.models import part
from common.models.temporal import memories
from common.models.vgg8 import vgg8
from common.partition.balance import balance
from common.partition.rebalance import rebalance, time_stage
from common.rule import skips
from common.rule.skips import project
from tests.support.settings import config_of

COSTS = st.lists(st.floats(0.01, 100), min_size=2, max_size=9)


def sums(costs: list[float], split: list[int]) -> list[float]:
    ends = [sum(split[: stage + 1]) for stage in range(len(split))]
    return [sum(costs[end - blocks : end]) for blocks, end in zip(split, ends, strict=True)]


@given(COSTS, st.data())
def test_rebalance_returns_the_best_split_that_it_timed(costs: list[float], data: st.DataObject) -> None:
    """Whatever the real, hidden costs of the stages are."""
    stages = data.draw(st.integers(1, len(costs)))
    hidden = data.draw(st.lists(st.floats(0.01, 100), min_size=len(costs), max_size=len(costs)))
    first, tried = balance(costs, stages), []

    def timing(split: list[int]) -> list[float]:
        tried.append(split)
        return sums(hidden, split)

    found = rebalance(costs, first, timing)
    assert tried[0] == first
    assert max(sums(hidden, found)) == min(max(sums(hidden, split)) for split in tried)
    assert len(tried) == len({tuple(split) for split in tried}) <= 4


def test_a_stage_slower_than_the_sum_of_its_blocks_gives_a_block_away() -> None:
    assert balance([1.0] * 8, 2) == [4, 4]
    assert rebalance([1.0] * 8, [4, 4], lambda split: sums([1.5] * 4 + [1.0] * 4, split)) == [3, 5]


def test_a_balanced_or_untimeable_split_is_kept() -> None:
    costs = [3.0, 1.0, 2.0, 2.0]
    assert rebalance(costs, [2, 2], lambda split: sums(costs, split)) == [2, 2]
    assert rebalance(costs, [1, 3], lambda split: None) == [1, 3]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stage_is_timed_with_its_update(precision: str) -> None:
    """Each stage's weights change, which shows that there was an update."""
    config = config_of(Path(), precision=precision, stages=2, split=[3, 5])
    torch.manual_seed(0)
    model, frames = vgg8(3, width=4), torch.rand(3, 3, 16, 16)
    for stage in range(2):
        before = [parameter.clone() for parameter in part(model, [3, 5], stage).parameters()]
        assert time_stage(config, model, [3, 5], stage, frames) > 0
        after = part(model, [3, 5], stage).parameters()
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_stage_is_timed_with_its_memories_and_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the three stages remembers, one pools for a skip, and one projects."""
    split = [1, 3, 4]
    config = config_of(Path(), stages=3, split=split, skips=[[0, 2]])
    model, frames, projected = vgg8(3, width=4, temporal="motion"), torch.rand(3, 3, 16, 16), list[Tensor]()

    def counted(y: Tensor, weight: Tensor) -> Tensor:
        projected.append(y)
        return project(y, weight)

    monkeypatch.setattr(skips, "project", counted)
    for stage in range(3):
        assert time_stage(config, model, split, stage, frames) > 0
        assert bool(projected) == (stage == 2)
    assert projected[0].shape == (3, 4, 4, 4), "stage 0's channels at the size of stage 2's input"
    assert all(memory.state is not None for memory in memories(model).values())
