"""A run on this machine: starts a coordinator and the stage workers, supervises them, and restarts all if one is lost.

Every process is a fork of the launcher, which imports torch and the product's modules once. So processes start within
milliseconds, also after a loss, and share the memory of what is imported.
"""

import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from common.config.settings import Config
from common.errors import PeerError
from common.processes.addresses import LOOPBACK
from common.processes.caller import clear_errors
from common.processes.deadlines import for_stages
from common.processes.layout import Layout
from common.processes.output import print_error
from common.processes.parent import TEMPORARY, become_parent
from common.processes.snapshot_folder import has_snapshots, make_folder, remove_folder
from coordinator.launch.attempt import LAST, LAUNCH, RESTARTS
from coordinator.launch.children import Children, Exit
from coordinator.launch.forked import import_before_fork
from coordinator.launch.held_signals import HeldSignals

_HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Supervision:
    """How the launcher supervises the processes of a run.

    Attributes:
        restarts: maximum number of restarts in any hour.
        deadline: seconds after which a process that is stopped (SIGSTOP) counts as lost, and is killed.
        snapshots: the processes keep their state in memory, from which those of the next attempt go on.
        caller: the parent of this process, if the run must not outlive it.
    """

    restarts: int = 0
    deadline: float = 60.0
    snapshots: bool = False
    caller: int | None = None

    @classmethod
    def of(cls, config: Config, caller: int | None = None) -> "Supervision":
        """As the settings ask for it."""
        recovery = config.recovery
        return cls(recovery.restarts, for_stages(config.network.deadline), recovery.snapshot_ticks > 0, caller)


def launch(program: Callable[[], None], layout: Layout, supervision: Supervision) -> int:
    """Run `program` in every process of a run.

    When a process is lost, all are restarted and resume from the last checkpoint, or heal. So they are, once, if the
    run is asked to stop and what it kept in memory is not saved. Call it in a process without other threads: it is
    forked.

    Args:
        program: the same for each process; it finds its rank in the environment, as under torchrun.

    Returns:
        The exit code of the run: 0; 1 if a process was lost; else the exit code of the process that failed first, or
        128 + the number of the signal that stopped the run.
    """
    become_parent()
    os.environ[LAUNCH] = uuid4().hex
    import_before_fork()
    keeps = supervision.snapshots
    budget = Budget(supervision.restarts, "what they kept in memory" if keeps else "the last checkpoint")
    with HeldSignals() as held, _snapshots() if keeps else nullcontext():
        stop = 0
        for attempt in count():
            os.environ[RESTARTS], os.environ[LAST] = str(attempt), str(int(budget.spent))
            clear_errors()
            children = Children(held, supervision.deadline, supervision.caller, stop, has_snapshots())
            _attempt(children, program, layout.names)
            stop_before, stop = stop, children.stopped
            if children.finished or not children.failures:
                return 128 + stop if stop else 0
            if stop and (stop_before or stop == signal.SIGQUIT or not has_snapshots()):
                return 128 + stop
            code = _report_failures(children.failures, layout)
            if not (_is_recoverable(children.failures) and budget.take(attempt)):
                return 128 + stop if stop else code
    raise AssertionError("unreachable")


def _attempt(children: Children, program: Callable[[], None], names: Sequence[str]) -> None:
    """Start the processes once and wait until all have ended."""
    with tempfile.TemporaryDirectory(prefix="sideways-") as folder, _reserved_port() as port:
        os.environ[TEMPORARY] = folder
        try:
            children.start(program, names, port)
            children.wait()
        finally:
            children.end()


@contextmanager
def _snapshots() -> Iterator[None]:
    """A folder in memory for the snapshots of all attempts."""
    make_folder()
    try:
        yield
    finally:
        remove_folder()


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port on loopback. Nothing else gets it: it is bound, in a way that lets rank 0 listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield holder.getsockname()[1]


class Budget:
    """Limits the number of restarts in any hour."""

    def __init__(self, limit: int, source: str) -> None:
        """`source`: what a restarted run goes on from, for the message."""
        self._limit, self._source = limit, source
        self._restart_times: deque[float] = deque()

    @property
    def spent(self) -> bool:
        """Whether no restart is allowed now."""
        while self._restart_times and self._restart_times[0] < time.monotonic() - _HOUR:
            self._restart_times.popleft()
        return len(self._restart_times) >= self._limit

    def take(self, attempt: int) -> bool:
        """Whether a restart after attempt `attempt` is allowed. Counts and logs it if so."""
        if self.spent:
            if self._limit:
                print_error(f"giving up after restart {attempt}: recovery.restarts allows {self._limit} per hour")
            return False
        self._restart_times.append(time.monotonic())
        print_error(f"restarting all processes from {self._source} (restart {attempt + 1})")
        return True


def _is_recoverable(failures: Sequence[Exit]) -> bool:
    """Whether a restart can help: processes were only killed, or lost a peer. Any other error would recur."""
    return all(failure.code < 0 or failure.code == PeerError.code for failure in failures)


def _report_failures(failures: Sequence[Exit], layout: Layout) -> int:
    """Report which process ended the run, unless it has reported its own error. Returns the run's exit code."""
    first = min(failures, key=lambda failure: _blame_order(failure, failures))
    if first.code < 0:
        who = layout.text(first.rank)
        print_error(
            f"{who} (pid {first.pid}) was killed by {signal.Signals(-first.code).name}, so all processes ended; "
            f"if nobody killed it on purpose, give it more memory"
        )
        return 1
    return 1 if first.code == PeerError.code else first.code


def _blame_order(failure: Exit, failures: Sequence[Exit]) -> tuple[bool, bool, bool, float]:
    """A sort key that puts the root cause first.

    A killed process cannot report an error, but its peers can, at almost the same time, so it sorts before them. A
    process killed by SIGTERM, or much later, is not a cause: the launcher killed it to end the rest of the group. One
    that lost a peer may be seen to end before the peer that had an error of its own.
    """
    late = failure.time > min(other.time for other in failures) + _SAME_TIME
    killed = failure.code < 0 and failure.code != -signal.SIGTERM
    return late, not killed, failure.code == PeerError.code, failure.time


_SAME_TIME = 2  # seconds
