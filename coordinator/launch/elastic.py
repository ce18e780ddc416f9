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
from common.processes.lifecycle import ALLOCATOR, TEMPORARY, become_parent, print_error, stop_signals
from coordinator.launch.attempt import LAUNCH, RESTARTS
from coordinator.launch.stopped_children import kill_stopped_children

_HOUR = 3600.0  # seconds
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def launch(stages: int, arguments: list[str], restarts: int = 0, deadline: float = 60.0) -> int:
    """Run `python *arguments` in stages + 1 processes, of which rank 0 coordinates. Returns the exit code of the run.

    When a process is lost, all are started anew, and go on from the last checkpoint; `restarts` times an hour at most.
    One that is stopped (SIGSTOP) for more than `deadline` seconds is lost too.
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
            try:
                with kill_stopped_children(deadline):
                    _attempt(stages, arguments)
                return 0
            except ChildFailedError as failed:
                code = _explain(failed.failures)
                if not (_may_go_on(failed.failures) and budget.take(attempt)):
                    return code
            except SignalException as stopped:
                return 128 + stopped.sigval
        raise AssertionError("counting does not end")
    finally:  # the launcher leaves its own behind
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _attempt(stages: int, arguments: list[str]) -> None:
    """One group of processes, from its start to its end.

    The launcher meets itself over a file, so it opens no port; the processes' own sockets are on loopback.
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
            max_restarts=0,  # which failures are worth another attempt, and how many, is decided here
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=",".join(number.name for number in _handled()),
        )
        elastic_launch(config, sys.executable)(*arguments)


def _handled() -> list[signal.Signals]:
    """A hang-up that is ignored stays ignored: the run was started by nohup."""
    return [number for number in _HANDLED if number is not signal.SIGHUP or number in stop_signals()]


class Budget:
    """Restarts that are left in any hour."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: deque[float] = deque()

    def take(self, attempt: int) -> bool:
        """Whether there may be another, which is then counted and told."""
        now = time.monotonic()
        while self._taken and self._taken[0] < now - _HOUR:
            self._taken.popleft()
        if len(self._taken) >= self._most:
            if self._most:
                print_error(f"this was restart {attempt}, and recovery.restarts allows {self._most} an hour: giving up")
            return False
        self._taken.append(now)
        print_error(f"starting all processes anew, to go on from the last checkpoint (restart {attempt + 1})")
        return True


def _may_go_on(failures: dict[int, ProcessFailure]) -> bool:
    """Whether processes were only lost: killed, or left by those that were. An error would come again."""
    return all(failure.exitcode < 0 or failure.exitcode == PeerError.code for failure in failures.values())


def _explain(failures: dict[int, ProcessFailure]) -> int:
    """Say which process ended the run, unless it has said so itself, and pass its exit code on."""
    rank, first = min(failures.items(), key=lambda item: _blame_order(item[1], failures))
    who = "the coordinator" if rank == 0 else f"stage {rank - 1}"
    if first.exitcode < 0:
        print_error(
            f"{who} (pid {first.pid}) was killed by {signal.Signals(-first.exitcode).name}, so all processes ended; "
            f"give it more memory if nobody killed it on purpose"
        )
        return 1
    return 1 if first.exitcode == PeerError.code else first.exitcode


def _blame_order(failure: ProcessFailure, failures: dict[int, ProcessFailure]) -> tuple[bool, bool, int]:
    """Sorts the first cause to the front.

    One that was killed could not speak; those that failed because of it, at almost the same time, could. Much later,
    and by SIGTERM, it is the launcher that kills, to end the rest.
    """
    late = failure.timestamp > min(other.timestamp for other in failures.values()) + _SAME_TIME
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    return late, not killed, failure.timestamp


_SAME_TIME = 2  # seconds
