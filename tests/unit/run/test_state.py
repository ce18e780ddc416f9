"""When a run is over, ending or done."""

import signal

from common.config.run_file import parse
from common.errors import DataError
from coordinator.run.state import RunState
from coordinator.run.stop_request import StopRequest
from coordinator.run.summary import exit_code


def state(tick: int = 3, **data: str) -> RunState:
    config = parse({"ticks": 9, "data": {"train": ".", **data}}, "test")
    return RunState(config, StopRequest(), total_ticks=9, tick=tick)


def test_a_running_run_is_neither_over_nor_ending() -> None:
    assert not any((state().over, state().ending, state().done))
    assert exit_code(state()) == 0


def test_a_run_is_done_after_its_last_tick() -> None:
    assert state(9).over
    assert state(9).done
    assert not state(9).ending


def test_a_run_with_clips_to_evaluate_on_is_done_after_its_last_evaluation() -> None:
    ends = state(9, val=".")
    assert ends.over
    assert not ends.complete
    assert not ends.done
    ends.evaluated_tick = 6
    assert not ends.complete
    ends.evaluated_tick = 9
    assert ends.complete
    assert ends.done


def test_a_signal_ends_a_run_without_completing_it() -> None:
    stopped = state()
    stopped.stop.note(signal.SIGTERM)
    assert stopped.ending
    assert not stopped.done
    assert exit_code(stopped) == 143


def test_sideways_stop_ends_a_run_for_good() -> None:
    stopped = state()
    stopped.stop.final = True
    stopped.stop.note(signal.SIGTERM)
    assert stopped.done


def test_a_data_error_ends_a_run() -> None:
    failed = state()
    failed.data_error = DataError("the disk is gone")
    assert failed.ending
    assert not failed.done
