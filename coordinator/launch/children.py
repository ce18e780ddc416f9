"""Forks the processes of one attempt, waits for them and ends them."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from common.processes.lifecycle import flush_output
from coordinator.launch.forked import become
from coordinator.launch.held_signals import HeldSignals
from coordinator.launch.stopped_children import StoppedChildren

_POLL = 0.5  # seconds; the end of a child is noticed at once
_END = 30.0  # seconds that a process has to end itself


@dataclass(frozen=True)
class Exit:
    """How a process ended.

    Attributes:
        code: its exit code, or minus the number of the signal that killed it.
        time: in seconds, of the monotonic clock.
    """

    rank: int
    pid: int
    code: int
    time: float


class Children:
    """The processes of one attempt.

    Attributes:
        failures: those that were killed, or ended with an exit code other than 0.
    """

    def __init__(self, held: HeldSignals, stopped: StoppedChildren) -> None:
        self._held, self._stopped = held, stopped
        self._ranks: dict[int, int] = {}  # by pid, of those that have not ended
        self.failures: list[Exit] = []

    def start(self, program: Callable[[], None], processes: int, port: int) -> None:
        """Run `program` in so many processes. `port`: at which rank 0 is to serve the store."""
        flush_output()  # else each process would write what is buffered
        for rank in range(processes):
            pid = os.fork()
            if pid == 0:
                self._held.release()
                become(program, rank, processes, port)
            self._ranks[pid] = rank

    def wait(self) -> int:
        """Wait until all have ended or one has failed. Returns 0, or the number of a signal that came before."""
        while self._ranks and not self.failures:
            if number := self._wait():
                return number
        return 0

    def end(self, number: int) -> None:
        """Ask all to end, by this signal and by any further one, and kill those that have not ended after 30 s."""
        start = time.monotonic()
        self._send(number)
        while self._ranks and time.monotonic() < start + _END:
            if again := self._wait():
                self._send(again)
        self._send(signal.SIGKILL)
        while self._ranks and time.monotonic() < start + 2 * _END:  # even kill -9 waits for a disk or GPU that hangs
            self._wait()

    def _wait(self) -> int:
        """Wait a moment for a signal, and note who has ended. Returns its number; 0 if there was none."""
        number = self._held.take(_POLL)
        for pid in list(self._ranks):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._note(Exit(self._ranks.pop(pid), pid, os.waitstatus_to_exitcode(status), time.monotonic()))
        self._stopped.poll()
        return number

    def _note(self, ended: Exit) -> None:
        if ended.code:
            self.failures.append(ended)

    def _send(self, number: int) -> None:
        for pid in self._ranks:  # none of them has been waited for, so no other process has its pid
            os.kill(pid, number)
