"""A stage worker's process. Started by `sideways join` under torch's elastic launcher, never by hand."""

import signal

if __name__ == "__main__":  # until there is something to keep an interrupt ends the process, during imports too
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import traceback
from types import FrameType
from typing import NoReturn

from common.errors import SidewaysError
from common.messages.stage_rpc import serve
from common.processes.lifecycle import exit_now, print_error, stop_signals, too_many_files, watch_parent
from common.processes.membership import join
from common.processes.rpc import start_rpc
from stage_worker.reporting.reporter import Reporter
from stage_worker.service import StageService

_EXIT_PATIENCE = 10.0  # seconds for the coordinator to end after its last call


def main() -> None:
    """Join the run, serve the coordinator until it says quit."""
    watch_parent("a stage worker")
    try:
        me = join("stage")
        reporter = Reporter(me, me.fetch("reports"))
    except SidewaysError as error:
        print_error(str(error))
        exit_now(error.code)
    _pass_on_signals(reporter)
    service = StageService(me, reporter)
    try:
        serve(service)
        start_rpc(me)
        ended = service.run()
        reporter.await_coordinator_exit(_EXIT_PATIENCE)
    except BaseException as error:
        _fail(error, service.place, reporter)
    exit_now(ended)


def _fail(error: BaseException, place: str, reporter: Reporter) -> NoReturn:
    """Report an error, here and to the coordinator, and end. `place`: which stage, at which tick."""
    known = str(error) if isinstance(error, SidewaysError) else too_many_files(error)
    message = str(error) if isinstance(error, SidewaysError) else f"{place}: {known or _described(error)}"
    print_error(message if known else f"{message}\n{traceback.format_exc()}")
    code = error.code if isinstance(error, SidewaysError) else 1
    reporter.fail(message, code)
    reporter.flush_and_close()
    exit_now(code)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _pass_on_signals(reporter: Reporter) -> None:
    """Stopping is the coordinator's to decide, so that the model so far is kept: tell it, and go on."""

    def note(number: int, frame: FrameType | None) -> None:
        reporter.stop_signal = number

    for number in stop_signals():
        signal.signal(number, note)


if __name__ == "__main__":
    main()
