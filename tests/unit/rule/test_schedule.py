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


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    stages = draw(st.integers(2, 12))
    return Schedule(stages, tuple(draw(st.lists(st.integers(1, 5), min_size=stages - 1, max_size=stages - 1))))


@given(schedules(), st.integers(1, 120))
def test_edges_of_several_ticks_equal_a_simulation_of_message_passing(schedule: Schedule, ticks: int) -> None:
    stages, edges = schedule.stages, schedule.edge_ticks
    up: dict[tuple[int, int], int | None] = {}  # the frame that a stage sent up at a tick
    down: dict[tuple[int, int], int | None] = {}  # the frame whose gradient a stage sent down at a tick
    for tick in range(ticks):
        for i in range(stages):
            held = tick if i == 0 else up.get((i - 1, tick - edges[i - 1]))
            used = held if i == stages - 1 else down.get((i + 1, tick - edges[i]))
            assert held == schedule.frame(i, tick)
            assert used == schedule.gradient(i, tick)
            up[i, tick], down[i, tick] = held, used


@given(schedules(), st.data())
def test_a_skip_takes_as_long_as_the_longest_edge_that_it_passes_by(schedule: Schedule, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, schedule.stages - 2))
    target = data.draw(st.integers(source + 1, schedule.stages - 1))
    ticks, tick = schedule.ticks_between(source, target), schedule.first_gradient(0) + 7
    assert ticks == schedule.ticks_between(target, source) == max(schedule.edge_ticks[source:target])
    held, sent = schedule.frame(target, tick), schedule.frame(source, tick - ticks)
    assert held is not None
    assert sent is not None
    assert sent - held == schedule.frames_newer(source, target) >= 0
    of_loss = schedule.gradient(target, tick - ticks)  # of the gradient that comes back
    now = schedule.frame(source, tick)
    assert of_loss is not None
    assert now is not None
    assert now - of_loss == schedule.skip_mismatch(source, target)


def test_one_stage_is_backpropagation() -> None:
    schedule = Schedule(1)
    assert all(schedule.frame(0, tick) == schedule.gradient(0, tick) == tick for tick in range(5))


def test_the_printed_table_is_the_one_in_the_docstring() -> None:
    assert common.rule.schedule.__doc__ is not None
    drawn = re.findall(r"^    ((?:tick|stage) .*)$", common.rule.schedule.__doc__, re.MULTILINE)
    printed = [*Schedule(3).table(7).splitlines(), *Schedule(3, (1, 2)).table(9).splitlines()]
    assert [" ".join(row.replace("frames", "").split()) for row in drawn] == [" ".join(row.split()) for row in printed]
