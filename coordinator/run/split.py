"""Chooses which blocks go to which stage, from measurements by the run's own stages."""

from collections.abc import Callable, Sequence

from common.config.settings import Config
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from common.partition.balance import BlockCost, balance
from common.partition.rebalance import rebalance


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
