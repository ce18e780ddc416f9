"""A run on this machine: torch's elastic launcher starts one coordinator and D stage workers and supervises them."""

import logging
import os
import signal
import sys
import tempfile
import time
from collections import deque
from itertools import count
from pathlib import Path
from uuid import uuid4

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from common.errors import PeerError
from common.processes.caller import forget_errors
from common.processes.lifecycle import ALLOCATOR, TEMPORARY, become_parent, print_error, stop_signals
from coordinator.launch.attempt import LAUNCH, RESTARTS
from coordinator.launch.stopped_children import kill_stopped_children

_HOUR = 3600.0  # seconds
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def launch(stages: int, arguments: list[str], restarts: int = 0, deadline: float = 60.0) -> int:
    """Run `python *arguments` in stages + 1 processes, of which rank 0 is the coordinator.

    When a process is lost, all are restarted and resume from the last checkpoint.

    Args:
        stages: number of stage workers.
        arguments: of the Python interpreter, the same for each process.
        restarts: maximum number of restarts in any hour.
        deadline: seconds after which a process that is stopped (SIGSTOP) counts as lost, and is killed.

    Returns:
        The exit code of the run: 0; 1 if a process was lost; else the exit code of the process that failed first, or
        128 + the number of the signal that stopped the run.
    """
    become_parent()
    os.environ.update({**ALLOCATOR, **os.environ})
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else a restart finds the dead group's addresses
    os.environ[LAUNCH] = uuid4().hex
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    budget = Budget(restarts)
    handlers = {number: signal.getsignal(number) for number in _HANDLED}
    try:
        for attempt in count():
            os.environ[RESTARTS] = str(attempt)
            forget_errors()
            try:
                with kill_stopped_children(deadline):
                    _attempt(stages, arguments)
                return 0
            except ChildFailedError as failed:
                code = _report_failures(failed.failures)
                if not (_is_recoverable(failed.failures) and budget.take(attempt)):
                    return code
            except SignalException as stopped:
                return 128 + stopped.sigval
        raise AssertionError("unreachable")
    finally:  # torch's launcher does not restore them
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _attempt(stages: int, arguments: list[str]) -> None:
    """Start one group of processes and wait until it ends.

    The rendezvous store is a file, so the launcher opens no port; the processes' own sockets are on loopback.
    """
    with tempfile.TemporaryDirectory(prefix="sideways-") as folder:
        os.environ[TEMPORARY] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=stages + 1,
            run_id="sideways",
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder) / "rendezvous"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=0,  # `launch` decides which failures are retried, and how often
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=",".join(number.name for number in _handled()),
        )
        elastic_launch(config, sys.executable)(*arguments)


def _handled() -> list[signal.Signals]:
    """The signals that the launcher handles: not SIGHUP if it is ignored, as under nohup."""
    return [number for number in _HANDLED if number is not signal.SIGHUP or number in stop_signals()]


class Budget:
    """Limits the number of restarts in any hour."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._restart_times: deque[float] = deque()

    def take(self, attempt: int) -> bool:
        """Whether a restart after attempt `attempt` is allowed. Counts and logs it if so."""
        now = time.monotonic()
        while self._restart_times and self._restart_times[0] < now - _HOUR:
            self._restart_times.popleft()
        if len(self._restart_times) >= self._limit:
            if self._limit:
                print_error(f"giving up after restart {attempt}: recovery.restarts allows {self._limit} per hour")
            return False
        self._restart_times.append(now)
        print_error(f"restarting all processes from the last checkpoint (restart {attempt + 1})")
        return True


def _is_recoverable(failures: dict[int, ProcessFailure]) -> bool:
    """Whether a restart can help: processes were only killed, or lost a peer. Any other error would recur."""
    return all(failure.exitcode < 0 or failure.exitcode == PeerError.code for failure in failures.values())


def _report_failures(failures: dict[int, ProcessFailure]) -> int:
    """Report which process ended the run, unless it has reported its own error. Returns the run's exit code."""
    rank, first = min(failures.items(), key=lambda item: _blame_order(item[1], failures))
    who = "the coordinator" if rank == 0 else f"stage {rank - 1}"
    if first.exitcode < 0:
        print_error(
            f"{who} (pid {first.pid}) was killed by {signal.Signals(-first.exitcode).name}, so all processes ended; "
            f"if nobody killed it on purpose, give it more memory"
        )
        return 1
    return 1 if first.exitcode == PeerError.code else first.exitcode


def _blame_order(failure: ProcessFailure, failures: dict[int, ProcessFailure]) -> tuple[bool, bool, int]:
    """A sort key that puts the root cause first.

    A killed process cannot report an error, but its peers can, at almost the same time, so it sorts before them. A
    process killed by SIGTERM, or much later, is not a cause: the launcher killed it to end the rest of the group.
    """
    late = failure.timestamp > min(other.timestamp for other in failures.values()) + _SAME_TIME
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    return late, not killed, failure.timestamp


_SAME_TIME = 2  # seconds
