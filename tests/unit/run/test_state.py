"""When a run is over, is ending, and is done."""

import signal

from common.config.run_file import parse
from common.errors import DataError
from coordinator.run.state import RunState
from coordinator.run.stop_request import StopRequest
from coordinator.run.summary import exit_code


def state(tick: int = 3) -> RunState:
    return RunState(parse({"ticks": 9, "data": {"train": "."}}, "test"), StopRequest(), planned=9, tick=tick)


def test_a_run_that_goes_on() -> None:
    assert not any((state().over, state().ending, state().done))
    assert exit_code(state()) == 0


def test_all_ticks_are_done() -> None:
    assert state(9).over
    assert state(9).done
    assert not state(9).ending


def test_a_signal_ends_it_but_it_is_not_done() -> None:
    stopped = state()
    stopped.stop.note(signal.SIGTERM)
    assert stopped.ending
    assert not stopped.done
    assert exit_code(stopped) == 143


def test_sideways_stop_ends_it_for_good() -> None:
    stopped = state()
    stopped.stop.final = True
    stopped.stop.note(signal.SIGTERM)
    assert stopped.done


def test_data_that_fail_end_it() -> None:
    failed = state()
    failed.data_error = DataError("the disk is gone")
    assert failed.ending
    assert not failed.done
