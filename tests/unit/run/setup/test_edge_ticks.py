"""How many ticks an edge takes, by the measured delay of its link."""

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.running import MOST_EDGE_TICKS
from common.messages.stage_rpc import Stages
from common.partition.balance import BlockCost
from coordinator.run.setup.edge_ticks import edge_ticks, with_edge_ticks
from tests.support.settings import config_of

SPLIT = [1, 2, 1]
COSTS = [BlockCost("block", milliseconds, 0, 0, 0, 0) for milliseconds in (5.0, 12.0, 8.0, 10.0)]  # a tick of 20 ms


class Measured:
    """Stages whose links take so many seconds."""

    def __init__(self, *delays: float) -> None:
        self._delays = delays

    def call_all(self, call: Any, *arguments: Any) -> list[float]:
        assert arguments[2:] == (SPLIT, 0.02)
        return [*self._delays, 0.0]


def found(folder: Path, *delays: float, **changes: Any) -> Any:
    config = config_of(folder, **{"stages": 3, "network__edge_ticks": "auto", **changes})
    stages = cast(Stages, Measured(*delays))
    return with_edge_ticks(config, 3, SPLIT, COSTS, stages).network.edge_ticks


def test_an_edge_gets_as_many_ticks_as_its_link_needs(tmp_path: Path) -> None:
    assert found(tmp_path, 0.05, 0.001) == [4, 1]
    assert found(tmp_path, 0.1, 0.02) == [7, 2]


def test_quick_links_leave_one_tick_each(tmp_path: Path) -> None:
    assert found(tmp_path, 0.0, 0.004) == 1


def test_what_is_given_stays(tmp_path: Path) -> None:
    assert found(tmp_path, 0.1, 0.1, network__edge_ticks=[2, 3]) == [2, 3]


@pytest.mark.parametrize("algorithm", ["backprop", "gpipe"])
def test_exact_gradients_cannot_come_later(tmp_path: Path, algorithm: str) -> None:
    assert found(tmp_path, 0.1, 0.1, algorithm=algorithm, data__slots=6) == 1


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_a_message_arrives_before_it_is_used(delay: float, tick: float) -> None:
    ticks = edge_ticks(delay, tick)
    assert ticks == MOST_EDGE_TICKS or delay <= (ticks - 1 + 1 / 3) * tick
    assert ticks == 1 or 1.2 * delay > (ticks - 2 + 1 / 3) * tick * (1 - 1e-9)
