"""How a process of a run begins and ends: it never outlives its parent, and a failure is told and final."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

_POLL = 0.5  # seconds


# glibc by default gives a tick's large tensors back to the kernel and faults them in again at the next; read at start
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def exit_now(code: int) -> NoReturn:
    """Leave at once. After a failure a normal exit could hang: torch's RPC threads are waiting for peers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def complain(message: str) -> None:
    """One message for the user, on standard error."""
    print(f"sideways: {message}", file=sys.stderr, flush=True)


def watch_parent(who: str, farewell: Callable[[], None] = lambda: None) -> None:
    """End this process within a second of its parent's death (kill -9 of the launcher leaves no orphans)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        complain(f"{who}: the launcher (pid {parent}) is gone, so this process ends too; start the run again")
        farewell()
        exit_now(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
