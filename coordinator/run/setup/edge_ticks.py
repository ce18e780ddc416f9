"""network.edge_ticks = "auto": as many ticks for each edge as its link takes, measured by the run's own stages."""

import math
from collections.abc import Sequence

from common.config.running import MOST_EDGE_TICKS
from common.config.settings import Config
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from common.partition.balance import BlockCost, by_stage

_MARGIN = 1.2  # of the delay, for jitter
_SLACK = 1 / 3  # of a tick: what an edge of one tick leaves between sending and using, on either way


def with_edge_ticks(
    config: Config, classes: int, split: Sequence[int], costs: Sequence[BlockCost], stages: Stages
) -> Config:
    """The run's configuration with measured edge ticks; unchanged if they are given.

    Args:
        split: number of blocks of each stage.
        costs: of the blocks.
    """
    if config.network.edge_ticks != "auto":
        return config
    ticks: int | list[int] = 1
    if config.stages > 1 and not config.exact_gradients:
        tick = max(sum(cost.milliseconds for cost in part) for part in by_stage(costs, split)) / 1e3
        delays = stages.call_all(StageCalls.link_delay, config.of_replica, classes, list(split), tick)
        longest = [max(delays[stage :: config.stages]) for stage in range(config.stages - 1)]  # of all replicas
        found = [edge_ticks(delay, tick) for delay in longest]
        ticks = found if max(found) > 1 else 1
    return config.model_copy(update={"network": config.network.model_copy(update={"edge_ticks": ticks})})


def edge_ticks(delay: float, tick: float) -> int:
    """How many ticks of `tick` seconds an edge needs whose link takes `delay` seconds one way, at most 256."""
    return min(MOST_EDGE_TICKS, max(1, 1 + math.ceil(_MARGIN * delay / tick - _SLACK)))
