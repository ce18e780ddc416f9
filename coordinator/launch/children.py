"""Forks the processes of one attempt, waits for them and ends them."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from common.errors import SidewaysError
from common.processes.output import flush_output
from common.processes.stop_signals import hold_stop_signals
from coordinator.launch.forked import become
from coordinator.launch.held_signals import HeldSignals
from coordinator.launch.stopped_children import StoppedChildren

_POLL = 0.1  # seconds until a signal is noticed; the end of a child is at once
_END = 30.0  # seconds that a process has to end itself
_RESUME = 120.0  # seconds more to resume, and save, what is only in memory


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
        stopped: the number of the first signal that asked the launcher to stop; 0 if none did.
        failures: those that were killed, or ended with an exit code other than 0.
    """

    def __init__(
        self,
        held: HeldSignals,
        deadline: float,
        caller: int | None = None,
        stopped: int = 0,
        from_memory: bool = False,
    ) -> None:
        """Start none yet.

        Args:
            held: the signals to this process.
            deadline: seconds after which a process that is stopped (SIGSTOP) is killed.
            caller: the parent of this process, whose death counts as SIGTERM; None if it does not matter.
            stopped: the signal that asked an earlier attempt to stop, for this one to obey; 0 if none did.
            from_memory: they resume what is only in memory, so they obey a stop once they have saved it.
        """
        self._held, self._stopped_children, self._caller = held, StoppedChildren(deadline), caller
        self._ranks: dict[int, int] = {}  # by pid, of those that have not ended
        self._ended = 0
        self._finish_time: float | None = None
        self._from_memory = from_memory
        self.stopped = stopped
        self.failures: list[Exit] = []

    def start(self, program: Callable[[], None], names: Sequence[str], port: int) -> None:
        """Run `program` in processes with these names. `port`: at which rank 0 is to serve the store.

        Raises:
            SidewaysError: the host allows no further process. `end` ends those that were started.
        """
        flush_output()  # else each process would write what is buffered
        for rank, name in enumerate(names):
            try:
                pid = os.fork()
            except OSError as error:
                raise SidewaysError(
                    f"cannot start process {rank} of the run: {error.strerror}. Raise the limit of processes "
                    f"(ulimit -u), or free memory"
                ) from error
            if pid == 0:
                become(partial(self._run, program), name, rank, len(names), port)
            self._ranks[pid] = rank

    def wait(self) -> None:
        """Wait until all have ended, one has failed, or a signal asks to stop."""
        while self._ranks and not self.failures and not self.stopped and not self._are_late:
            self._wait()

    @property
    def finished(self) -> bool:
        """Whether the coordinator, rank 0, has ended in order: the run is done, whatever becomes of the others."""
        return self._finish_time is not None

    @property
    def _are_late(self) -> bool:
        """Whether the others should have ended: they have nothing left to do once the coordinator has ended."""
        return self._finish_time is not None and time.monotonic() > self._finish_time + _END

    def end(self) -> None:
        """Ask all to end, by the signal that came, or SIGTERM, and by any further one; after 30 s kill the rest.

        After 150 s, if they are asked to stop and what they resume from memory may not be saved yet.
        """
        start, patience = time.monotonic(), _END + _RESUME * (self._from_memory and self.stopped > 0)
        self._send(self.stopped or signal.SIGTERM)
        while self._ranks and time.monotonic() < start + patience:
            self._send(self._wait())
        self._send(signal.SIGKILL)
        while (
            self._ranks and time.monotonic() < start + patience + _END
        ):  # even kill -9 waits for a disk or GPU that hangs
            self._wait()

    def _run(self, program: Callable[[], None]) -> None:
        if self._from_memory:
            hold_stop_signals()
        self._held.release()
        program()

    def _wait(self) -> int:
        """Wait a moment for a signal, and note who has ended. Returns its number; 0 if there was none."""
        number = self._held.take(_POLL)
        if self._caller not in (None, os.getppid()):
            number, self._caller = number or signal.SIGTERM, None
        self.stopped = self.stopped or number
        for pid in list(self._ranks):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._note(Exit(self._ranks.pop(pid), pid, os.waitstatus_to_exitcode(status), time.monotonic()))
        self._stopped_children.poll(self._ranks, self._ended > 0)
        return number

    def _note(self, ended: Exit) -> None:
        self._ended += 1
        if ended.code:
            self.failures.append(ended)
        elif ended.rank == 0:
            self._finish_time = ended.time

    def _send(self, number: int) -> None:
        for pid in self._ranks:  # none of them has been waited for, so no other process has its pid
            os.kill(pid, number)  # 0 does nothing
