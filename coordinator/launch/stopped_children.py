"""A process that was stopped (SIGSTOP, a debugger) does not hear the launcher's SIGTERM, which then waits for it.
As soon as one of a group has ended, those that are stopped are killed: what they were part of is over. So is one that
stays stopped for longer than the others wait for it: between two phases, stages wait for the coordinator without end.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_EVERY = 1.0  # seconds


@contextmanager
def kill_stopped_children(patience: float) -> Iterator[None]:
    """Look after this process's children while the body runs. `patience` in seconds, while all are there."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, patience), name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: threading.Event, patience: float) -> None:
    most = 0
    seen: Counter[int] = Counter()  # how often a process was stopped; no clock, as this one may be stopped with it
    while not over.wait(_EVERY):
        children = psutil.Process().children()
        alive = [child for child in children if _status(child) not in (psutil.STATUS_ZOMBIE, None)]
        most = max(most, len(alive))
        stopped = [child for child in alive if _status(child) == psutil.STATUS_STOPPED]
        seen = Counter({child.pid: seen[child.pid] + 1 for child in stopped})
        for child in stopped:
            if len(alive) < most or seen[child.pid] * _EVERY > patience:
                child.kill()


def _status(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.status()
    return None
