"""Which stages a stage exchanges tensors with."""

import torch

from common.rule.schedule import Schedule
from stage_worker.edges.links import links_of

OUTPUTS = [(torch.Size((2, width)), torch.float32) for width in (3, 4, 5, 6)]
SKIPS = [(0, 2), (1, 3), (0, 3)]


def test_neighbours_come_first_then_skips() -> None:
    links = [links_of(stage, Schedule(4), SKIPS, OUTPUTS) for stage in range(4)]
    assert [list(link.below) for link in links] == [[], [0], [1, 0], [2, 0, 1]]
    assert [list(link.above) for link in links] == [[1, 2, 3], [2, 3], [3], []]
    assert [list(link.partners) for link in links] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_both_ends_expect_the_output_of_the_lower_stage_which_skips_pool_at_the_same_tick() -> None:
    outputs = [(torch.Size((2, 4, side, side)), torch.bfloat16) for side in (8, 8, 4, 2)]
    links = [links_of(stage, Schedule(4, (1, 3, 2)), SKIPS, outputs) for stage in range(4)]
    for lower, link in enumerate(links):
        for upper, spec in link.above.items():
            side = outputs[upper - 1][0][-1]
            assert link.ticks[upper] == links[upper].ticks[lower] == max((1, 3, 2)[lower:upper])
            assert spec == links[upper].below[lower] == (torch.Size((2, 4, side, side)), torch.bfloat16)
