"""Kills child processes that are stopped (SIGSTOP, a debugger).

A stopped process does not react to SIGTERM, so the launcher would wait for it. Once one process of a group has ended,
the stopped ones are killed, because the group cannot continue. A process that stays stopped for too long is killed as
well: between two phases, stages wait for the coordinator without a deadline.
"""

import time
from collections import Counter
from contextlib import suppress

import psutil

_EVERY = 1.0  # seconds


class StoppedChildren:
    """Watches this process's children. `deadline`: seconds that one may be stopped if none ended."""

    def __init__(self, deadline: float) -> None:
        self._deadline, self._next = deadline, 0.0
        self._most_alive = 0
        self._seen: Counter[int] = Counter()  # looks in a row; a clock also advances while this process is stopped

    def poll(self) -> None:
        """Look at the children, if a second has passed since the last look. Kills those that have to be killed."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        alive = [child for child in psutil.Process().children() if _status(child) not in (psutil.STATUS_ZOMBIE, None)]
        self._most_alive = max(self._most_alive, len(alive))
        stopped = [child for child in alive if _status(child) == psutil.STATUS_STOPPED]
        self._seen = Counter({child.pid: self._seen[child.pid] + 1 for child in stopped})
        for child in stopped:
            if len(alive) < self._most_alive or self._seen[child.pid] * _EVERY > self._deadline:
                child.kill()


def _status(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.status()
    return None
