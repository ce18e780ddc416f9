"""Kills child processes that are stopped (SIGSTOP, a debugger).

A stopped process does not react to SIGTERM, so the launcher would wait for it. Once one process of a group has ended,
the stopped ones are killed, because the group cannot continue. A process that stays stopped for too long is killed as
well: between two phases, stages wait for the coordinator without a deadline.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_EVERY = 1.0  # seconds


@contextmanager
def kill_stopped_children(deadline: float) -> Iterator[None]:
    """Watch this process's children while the body runs. `deadline`: seconds that one may be stopped if none ended."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, deadline), name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: threading.Event, deadline: float) -> None:
    most_alive = 0
    seen: Counter[int] = Counter()  # consecutive polls; a clock would also advance while this process itself is stopped
    while not over.wait(_EVERY):
        children = psutil.Process().children()
        alive = [child for child in children if _status(child) not in (psutil.STATUS_ZOMBIE, None)]
        most_alive = max(most_alive, len(alive))
        stopped = [child for child in alive if _status(child) == psutil.STATUS_STOPPED]
        seen = Counter({child.pid: seen[child.pid] + 1 for child in stopped})
        for child in stopped:
            if len(alive) < most_alive or seen[child.pid] * _EVERY > deadline:
                child.kill()


def _status(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.status()
    return None
