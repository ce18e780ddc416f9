"""Kills child processes that are stopped (SIGSTOP, a debugger).

A stopped process does not react to SIGTERM, so the launcher would wait for it. Once one process of a group has ended,
the stopped ones are killed, because the group cannot continue. A process that stays stopped for too long is killed as
well: between two phases, stages wait for the coordinator without a deadline.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import psutil

_EVERY = 1.0  # seconds


class StoppedChildren:
    """Kills those that stay stopped. `deadline`: seconds that a child may be stopped if none has ended."""

    def __init__(self, deadline: float) -> None:
        self._deadline, self._next = deadline, 0.0
        self._seen: Counter[int] = Counter()  # looks in a row; a clock also advances while this process is stopped

    def poll(self, children: Iterable[int], ended: bool) -> None:
        """Look at the children, if a second has passed since the last look. Kills those that have to be killed.

        Args:
            children: the pids of those that have not been waited for.
            ended: whether another has ended.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        stopped = [pid for pid in children if _is_stopped(pid)]
        self._seen = Counter({pid: self._seen[pid] + 1 for pid in stopped})
        for pid in stopped:
            if ended or self._seen[pid] * _EVERY > self._deadline:
                os.kill(pid, signal.SIGKILL)


def _is_stopped(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
