"""What each stage of each replica is doing."""

import pytest

from coordinator.page.replicas import ReplicaStates
from tests.support.page import config_of, progress

REPLICAS, STAGES = 2, 3


def states_of(waits: list[list[float]], tick: int = 40) -> ReplicaStates:
    """Of stages that wait so many ms for neighbours, of ticks of 10 ms."""
    states = ReplicaStates(config_of(replicas=REPLICAS, data={"train": ".", "slots": 4}))
    for replica, row in enumerate(waits):
        for stage, ms in enumerate(row):
            line = progress(stage, tick, receive_wait_ms=ms, send_wait_ms=0.0, data_wait_ms=0.0)
            states.add(line | ({"replica": replica} if replica else {}))
    return states


def names(states: ReplicaStates) -> list[list[str]]:
    return [[cell["state"] for cell in row] for row in states.rows()]


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([[1, 2, 1], [1, 1, 2]], [["busy"] * STAGES] * 2),  # balanced
        ([[8, 9, 9], [6, 0.2, 7]], [["idle"] * 3, ["idle", "slow", "idle"]]),  # one holds up all others
        ([[4, 4, 4], [4, 0, 4]], [["busy"] * 3, ["busy", "slow", "busy"]]),
        ([[9, 9, 9], [9, 6, 9]], [["idle"] * 3] * 2),  # something else holds up all
        ([[0.1, 9, 9], [0.3, 9, 9]], [["slow", "idle", "idle"]] * 2),  # an uneven split
        ([[1, 2, 1]], [["busy"] * 3, ["starting"] * 3]),
    ],
)
def test_the_stage_that_holds_up_the_others_is_slow(waits: list[list[float]], expected: list[list[str]]) -> None:
    assert names(states_of(waits)) == expected


def test_a_stage_that_lost_updates_heals_until_it_has_done_as_many() -> None:
    states = states_of([[1, 1, 1], [1, 1, 1]], tick=40)
    states.healed(35, {1: 20})
    assert names(states) == [["busy", "healing", "busy"]] * 2
    states.add(progress(1, 55, receive_wait_ms=1.0))
    assert names(states) == [["busy"] * 3, ["busy", "healing", "busy"]]


def test_a_cell_says_what_its_stage_waits_for() -> None:
    states = states_of([[1, 1, 1], [1, 1, 1]])
    states.add(progress(0, 41, receive_wait_ms=1.0, send_wait_ms=0.0, data_wait_ms=6.0))
    states.add({"kind": "restart", "tick": 3})
    cell, other, _ = states.rows()[0]
    assert cell == {"state": "idle", "tick": 41, "waits": 0.7, "waits_for": "frames"}
    assert other == {"state": "busy", "tick": 40, "waits": 0.1, "waits_for": "neighbours"}
