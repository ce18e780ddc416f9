"""What is predicted of a split from the costs of blocks and skips."""

import pytest
from torch import nn

from common.config.settings import Optimiser
from common.partition.balance import BlockCost
from common.partition.prediction import optimiser_state, predict
from common.partition.skip_costs import SkipCost
from common.rule.optimiser import build_optimiser

COSTS = [BlockCost("a", 4.0, 8.0, 256, 1.0, 100.0), BlockCost("b", 1.0, 2.0, 512, 2.0, 50.0), BlockCost("c", 3.0, 1.0)]


def test_predict_computes_times_and_memory_of_a_split() -> None:
    promise = predict(COSTS, [1, 2], input_kib=16, max_concurrent_stages=2, state=2)
    assert promise.stage_ms == [4, 4]
    assert (promise.tick_ms, promise.efficiency) == (4, 1.0)
    # parameters, gradients and two optimiser states; kept for backward; two packets per direction on both edges
    assert promise.memory_mib == [(4 * 1 + 100 + 4 * (16 + 8)) / 1024, (4 * 2 + 50 + 4 * (8 + 1)) / 1024]


def test_stages_that_share_cores_are_slower() -> None:
    promise = predict(COSTS, [1, 1, 1], input_kib=16, max_concurrent_stages=1, state=0)
    assert promise.tick_ms == 8
    assert promise.efficiency == pytest.approx(8 / (3 * 4))


@pytest.mark.parametrize(("name", "args", "kept"), [("AdamW", {}, 2), ("SGD", {}, 0), ("SGD", {"momentum": 0.9}, 1)])
def test_optimiser_state_is_measured(name: str, args: dict[str, float], kept: float) -> None:
    optimiser = build_optimiser(nn.Linear(4, 4), Optimiser(name=name, args=args), 0)
    assert optimiser_state(optimiser) == kept
    assert optimiser_state(None) == 0


def test_skips_count_in_the_stages_that_they_connect() -> None:
    skip = SkipCost(0, 2, BlockCost("pool", 0.5, 3.0, saved_kib=6.0), BlockCost("project", 2.0, 1.0, 8, 0.5, 4.0))
    plain, skipping = (
        predict(COSTS, [1, 1, 1], input_kib=16, max_concurrent_stages=3, state=2, skips=skips) for skips in ([], [skip])
    )
    assert skipping.stage_ms == [4.5, 1, 5]
    assert (skipping.tick_ms, skipping.efficiency) == (5, 10.5 / (3 * 5))
    more = [with_it - without for with_it, without in zip(skipping.memory_mib, plain.memory_mib, strict=True)]
    # two packets per direction at both ends; what is kept for backward; parameters as those of the blocks
    assert more == pytest.approx([(4 * 3 + 6) / 1024, 0, (4 * 3 + 4 + 4 * 0.5) / 1024])
