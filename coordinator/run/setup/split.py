"""Which blocks each stage gets: as set, as before, or by their measured costs."""

from common.messages.stage_calls import StageCalls
from common.partition.balance import BlockCost, check_split
from coordinator.run.setup.checks import Checked, Setup
from coordinator.run.split import choose


def costs_and_split(setup: Setup, checked: Checked) -> tuple[list[BlockCost], list[int]]:
    """The blocks' costs, and the number of blocks of each stage.

    There are no costs, as they are not measured again, after an automatic restart that needs none.
    """
    config, stages, classes = setup.config, setup.pipeline.stages, len(checked.datasets.train.classes)
    before = checked.found[1].split if checked.found else None
    known = config.split or (before if before is not None and len(before) == config.stages else None)
    needed = not checked.is_restart or known is None or config.network.edge_ticks == "auto"
    costs = stages.call(0, StageCalls.measure, config.of_replica, classes) if needed else []
    split = known or choose(config.of_replica, classes, costs, stages)
    check_split(split, len(checked.blocks))
    return costs, split
