"""What an automatic restart measures again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.partition.balance import BlockCost
from coordinator.run.setup.checks import Checked, Setup
from coordinator.run.setup.split import costs_and_split
from tests.support.settings import config_of

NAMES = ["a", "b", "c", "d"]
COSTS = [BlockCost(name, 1.0, 0, 0, 0, 0) for name in NAMES]


def split(folder: Path, is_restart: bool, **changes: Any) -> tuple[list[BlockCost], list[int]]:
    """The costs and the split of a start without a checkpoint."""
    stages = SimpleNamespace(call=lambda *_: COSTS)
    setup = SimpleNamespace(config=config_of(folder, stages=2, **changes), pipeline=SimpleNamespace(stages=stages))
    datasets = SimpleNamespace(train=SimpleNamespace(classes=["x", "y"]))
    checked = SimpleNamespace(datasets=datasets, blocks=NAMES, found=None, is_restart=is_restart)
    return costs_and_split(cast(Setup, setup), cast(Checked, checked))


@pytest.mark.parametrize(
    ("is_restart", "changes", "costs"),
    [
        (True, {}, []),
        (False, {}, COSTS),
        (True, {"network__edge_ticks": "auto"}, COSTS),  # lost before what was measured had been saved
    ],
)
def test_the_costs_are_measured_where_they_are_needed(
    tmp_path: Path, is_restart: bool, changes: dict[str, Any], costs: list[BlockCost]
) -> None:
    assert split(tmp_path, is_restart, split=[1, 3], **changes) == (costs, [1, 3])
