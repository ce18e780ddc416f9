"""The deadline of transfers between GPUs: NCCL's waits return at once, so nobody else notices that one is stuck.

the tick loop  add()   a transfer that the GPU's stream now waits for
the watchdog           looks a few times a second whether the oldest transfer of each direction is done
                       after its deadline it reports the error and ends the process; the run then restarts
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from common.errors import PeerError
from common.processes.output import exit_now, print_error
from stage_worker.edges.peer_errors import stuck

_INTERVAL = 0.25  # seconds


class Transfer(Protocol):
    """What is watched, such as torch.distributed's Work."""

    def is_completed(self) -> bool:
        """Whether it is done."""


class Watch:
    """The transfers of one direction, in the order in which they complete."""

    def __init__(self, place: str, neighbour: int, deadline: float) -> None:
        """`place`: this stage, for the error message; `deadline` in seconds."""
        self._place, self._neighbour, self._deadline = place, neighbour, deadline
        self._pending: deque[tuple[Transfer, int, str, float]] = deque()  # with tick, what is done, and its deadline

    def add(self, transfer: Transfer, tick: int, doing: str) -> None:
        """Watch a transfer that is being waited for at `tick`."""
        self._pending.append((transfer, tick, doing, time.monotonic() + self._deadline))

    def overdue(self) -> PeerError | None:
        """The error for the oldest transfer if it is past its deadline. Forgets those that are done."""
        while self._pending:
            transfer, tick, doing, end = self._pending[0]
            if not transfer.is_completed():
                late = time.monotonic() > end
                return stuck(f"{self._place}, tick {tick}, {doing}", self._neighbour, self._deadline) if late else None
            self._pending.popleft()
        return None


def _end_process(error: PeerError) -> None:
    print_error(error)
    exit_now(error.code)


class TransferWatchdog:
    """A thread that watches all directions of a stage."""

    def __init__(self, fail: Callable[[PeerError], None] = _end_process) -> None:
        """`fail` is called in the thread, once, with the error of the first overdue transfer."""
        self._fail = fail
        self._watches: list[Watch] = []
        self._closed = threading.Event()

    def watch(self, place: str, neighbour: int, deadline: float) -> Watch:
        """Watch another direction; see Watch."""
        if not self._watches:
            threading.Thread(target=self._run, name="transfer watchdog", daemon=True).start()
        self._watches.append(watch := Watch(place, neighbour, deadline))
        return watch

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_INTERVAL):
            for watch in self._watches:
                if (error := watch.overdue()) is not None:
                    self._fail(error)
                    return
