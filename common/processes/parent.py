"""The launcher, as its children see it: none of them outlives it."""

import ctypes
import os
import signal
import threading
import time

from common.processes.output import exit_now, print_error
from common.processes.snapshot_folder import remove_folder

_POLL = 0.5  # seconds
_PATIENCE = 2.0  # seconds for a last message
_PARENT = "SIDEWAYS_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1
TEMPORARY = "SIDEWAYS_TEMPORARY"  # environment: a folder that the launcher removes when it exits


def remember_parent() -> None:
    """Record the parent's pid. Call it early: the parent may be gone by the time `watch_parent` starts."""
    os.environ.setdefault(_PARENT, str(os.getppid()))


def become_parent() -> None:
    """Make this process the parent that its child processes watch."""
    os.environ[_PARENT] = str(os.getpid())


def watch_parent(who: str) -> None:
    """Exit within a second of the parent's death, so that kill -9 of the launcher leaves no orphans.

    `who` names this process in the error message.
    """
    remember_parent()
    parent = int(os.environ[_PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        remove_folder()
        threading.Timer(_PATIENCE, os._exit, (1,)).start()  # stderr may be a pipe that nobody reads
        print_error(f"{who}: the launcher (pid {parent}) is gone, so this process exits too; restart the run")
        exit_now(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def die_with_parent(parent: int) -> None:
    """Be killed by the kernel when the thread that started this process ends, even if stopped (PR_SET_PDEATHSIG).

    `parent`: the process of that thread, which may be gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
