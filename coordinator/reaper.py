"""A process that was stopped (SIGSTOP, a debugger) does not hear the launcher's SIGTERM, which then waits for it.
As soon as one of a group has ended, those that are stopped are killed: what they were part of is over.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_EVERY = 1.0  # seconds


@contextmanager
def killing_the_stopped() -> Iterator[None]:
    """Look after this process's children while the body runs."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over,), name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: threading.Event) -> None:
    most = 0
    while not over.wait(_EVERY):
        children = psutil.Process().children()
        alive = [child for child in children if _status(child) not in (psutil.STATUS_ZOMBIE, None)]
        most = max(most, len(alive))
        if len(alive) < most:
            for child in alive:
                if _status(child) == psutil.STATUS_STOPPED:
                    child.kill()


def _status(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        return process.status()
    return None
