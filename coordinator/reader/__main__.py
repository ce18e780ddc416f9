"""Entry point of a reader. Started by the launcher, or by `sideways join` under torchrun, never by hand."""

import signal

if __name__ == "__main__":  # until the coordinator is there to be told, an interrupt ends the process
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import traceback
from types import FrameType
from typing import NoReturn

from common.errors import SidewaysError
from common.messages.stage_rpc import serve
from common.messages.strict import Failed
from common.processes.interpreter import shorten_thread_switches
from common.processes.joining import join
from common.processes.membership import REPLICAS, STAGES, Membership
from common.processes.names import reader_text
from common.processes.open_files import too_many_files
from common.processes.output import exit_now, print_error
from common.processes.parent import watch_parent
from common.processes.rpc import start_rpc
from common.processes.stop_signals import note_stop_signals
from coordinator.reader.coordinator_line import CoordinatorGoneError, CoordinatorLine
from coordinator.reader.reader import Reader


def main() -> None:
    """Join the run, and feed the replicas until the coordinator ends it."""
    watch_parent("a reader")
    shorten_thread_switches()
    try:
        me = join("reader")
        me = me.arranged(int(me.fetch(REPLICAS)), int(me.fetch(STAGES)))
        line = CoordinatorLine(me)
    except SidewaysError as error:
        print_error(error)
        exit_now(error.code)
    reader = Reader(me, line)
    _pass_on_signals(reader)
    try:
        serve(reader)
        start_rpc(me)
        code = reader.run()
        reader.close()
    except BaseException as error:
        _fail(error, me, line)
    exit_now(code)


def _fail(error: BaseException, me: Membership, line: CoordinatorLine) -> NoReturn:
    """Report an error on stderr and to the coordinator, then exit."""
    known = str(error) if isinstance(error, SidewaysError) else too_many_files(error)
    message = f"{reader_text(me.reader)}: {known or f'{type(error).__name__}: {error}'}"
    code = error.code if isinstance(error, SidewaysError) else 1
    if not isinstance(error, CoordinatorGoneError):
        print_error(message if known else f"{message}\n{traceback.format_exc()}")
        line.send(Failed(attempt=me.attempt, message=message, code=code))
        line.close()
    elif not me.local_processes:  # else a stage of this host says it
        print_error(message)
    exit_now(code)


def _pass_on_signals(reader: Reader) -> None:
    """Forward stop signals to the coordinator, which ends the run after saving the model. The reader itself goes on."""

    def note(number: int, frame: FrameType | None) -> None:
        reader.stop_signal = number

    note_stop_signals(note)


if __name__ == "__main__":
    main()
