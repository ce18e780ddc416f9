"""Entry point of a stage worker. Started by the launcher, or by `sideways join` under torchrun, never by hand."""

import signal

if __name__ == "__main__":  # until there is state to save, an interrupt ends the process, also during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from common.errors import PeerError, SidewaysError
from common.messages.stage_rpc import serve
from common.processes.joining import join
from common.processes.membership import REPLICAS, STAGES
from common.processes.open_files import too_many_files
from common.processes.output import exit_now, print_error
from common.processes.parent import watch_parent
from common.processes.rpc import start_rpc
from common.processes.stop_signals import note_stop_signals
from common.processes.user_errors import describe_error, traceback_of
from stage_worker.edges.peer_errors import lost_connection
from stage_worker.gpu_errors import gpu_failure
from stage_worker.reporting.reporter import Reporter
from stage_worker.worker import Worker

_EXIT_TIMEOUT = 10.0  # seconds to wait for the coordinator to exit after its last call


def main() -> None:
    """Join the run and answer the coordinator's calls until `quit`."""
    watch_parent("a stage worker")
    try:
        me = join("stage")
        me = me.arranged(int(me.fetch(REPLICAS)), int(me.fetch(STAGES)))
        address = me.fetch("reports")
        reporters = [Reporter(me.at(stage), address) for stage in me.held]
    except SidewaysError as error:
        print_error(error)
        exit_now(error.code)
    _pass_on_signals(reporters[0])
    worker = Worker(me, reporters)
    try:
        serve(worker)
        start_rpc(me)
        code = worker.run()
        reporters[0].coordinator.await_exit(_EXIT_TIMEOUT)
    except BaseException as error:
        _fail(error, worker, reporters)
    exit_now(code)


def _fail(error: BaseException, worker: Worker, reporters: Sequence[Reporter]) -> NoReturn:
    """Report an error on stderr and to the coordinator, then exit."""
    place = worker.place
    error = gpu_failure(error, place) or lost_connection(error, place) or error
    known = str(error) if isinstance(error, SidewaysError) else too_many_files(error)
    message = str(error) if isinstance(error, SidewaysError) else f"{place}: {known or describe_error(error)}"
    if not (reporters[0].coordinator.run_ends and isinstance(error, PeerError)):
        print_error(message if known else f"{message}\n{traceback_of(error)}")
    code = error.code if isinstance(error, SidewaysError) else 1
    reporters[0].fail(message, code)
    if isinstance(error, PeerError):
        _keep_snapshots(worker)
    for reporter in reporters:
        reporter.flush_and_close()
    exit_now(code)


def _keep_snapshots(worker: Worker) -> None:
    try:
        worker.keep_snapshots()
    except Exception as error:  # a GPU may be lost with the peer
        print_error(f"warning: {worker.place}: the state could not be kept in memory ({describe_error(error)})")


def _pass_on_signals(reporter: Reporter) -> None:
    """Forward stop signals to the coordinator, which stops the run after saving the model. The stage itself goes on."""

    def note(number: int, frame: FrameType | None) -> None:
        reporter.stop_signal = number

    note_stop_signals(note)


if __name__ == "__main__":
    main()
