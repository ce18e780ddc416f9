"""The schedule's arithmetic, compared with a simulation that passes frame numbers on, and with the printed table."""

import re

from hypothesis import given
from hypothesis import strategies as st

import common.rule.schedule
from common.rule.schedule import Schedule

DEPTHS = st.integers(1, 40)


@given(DEPTHS, st.integers(1, 120))
def test_frames_and_gradients_equal_a_simulation_of_message_passing(stages: int, ticks: int) -> None:
    schedule = Schedule(stages)
    up: list[int | None] = [None] * stages  # the frame that stage i sent up at the last tick
    down: list[int | None] = [None] * stages  # the frame whose gradient stage i sent down at the last tick
    for tick in range(ticks):
        held = [tick if i == 0 else up[i - 1] for i in range(stages)]
        used = [held[i] if i == stages - 1 else down[i + 1] for i in range(stages)]
        assert held == [schedule.frame(i, tick) for i in range(stages)]
        assert used == [schedule.gradient(i, tick) for i in range(stages)]
        up, down = held, used


@given(DEPTHS, st.data())
def test_mismatch_is_the_distance_between_frame_and_gradient(stages: int, data: st.DataObject) -> None:
    schedule, stage = Schedule(stages), data.draw(st.integers(0, stages - 1))
    tick = data.draw(st.integers(schedule.first_gradient(stage), 10_000))
    frame, gradient = schedule.frame(stage, tick), schedule.gradient(stage, tick)
    assert frame is not None
    assert gradient is not None
    assert frame == tick - stage
    assert gradient == tick - 2 * (stages - 1) + stage
    assert frame - gradient == schedule.mismatch(stage) == 2 * (stages - 1 - stage)


@given(DEPTHS, st.data())
def test_nothing_before_the_first_input_and_the_first_gradient(stages: int, data: st.DataObject) -> None:
    schedule, stage = Schedule(stages), data.draw(st.integers(0, stages - 1))
    assert schedule.first_input(stage) == stage
    assert schedule.first_gradient(stage) == 2 * (stages - 1) - stage
    assert schedule.frame(stage, schedule.first_input(stage)) == 0
    assert schedule.gradient(stage, schedule.first_gradient(stage)) == 0
    assert all(schedule.frame(stage, tick) is None for tick in range(schedule.first_input(stage)))
    assert all(schedule.gradient(stage, tick) is None for tick in range(schedule.first_gradient(stage)))


def test_one_stage_is_backpropagation() -> None:
    schedule = Schedule(1)
    assert all(schedule.frame(0, tick) == schedule.gradient(0, tick) == tick for tick in range(5))


def test_the_printed_table_is_the_one_in_the_docstring() -> None:
    assert common.rule.schedule.__doc__ is not None
    drawn = re.findall(r"^    ((?:tick|stage) .*)$", common.rule.schedule.__doc__, re.MULTILINE)
    printed = Schedule(3).table(7).splitlines()
    assert [" ".join(row.replace("frames", "").split()) for row in drawn] == [" ".join(row.split()) for row in printed]
