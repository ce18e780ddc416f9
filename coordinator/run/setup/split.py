"""Which blocks each stage gets: as set, as before, or by their measured costs."""

from collections.abc import Callable, Sequence

from common.config.settings import Config
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from common.partition.balance import BlockCost, balance, check_split
from common.partition.rebalance import rebalance
from coordinator.run.setup.checks import Checked, Setup


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


def choose(config: Config, classes: int, costs: Sequence[BlockCost], stages: Stages) -> list[int]:
    """Choose the split of a run: balanced by the blocks' costs, then refined by timing all stages at once."""
    times = [cost.milliseconds for cost in costs]
    split = balance(times, config.stages)
    if config.stages in (1, len(costs)):
        return split  # only one is possible
    return rebalance(times, split, timed_at_once(stages, config, classes))


def timed_at_once(stages: Stages, config: Config, classes: int) -> Callable[[Sequence[int]], list[float] | None]:
    """A function that times all stages of a split at once, in ms; it returns None if some would share a core or GPU."""

    def time(split: Sequence[int]) -> list[float] | None:
        found = stages.call_all(StageCalls.time_split, config, classes, list(split))
        times = [milliseconds for milliseconds in found if milliseconds is not None]
        if len(times) < len(found):
            return None
        return [max(times[stage :: stages.count]) for stage in range(stages.count)]

    return time
