"""How a process of a run begins and ends: it never outlives its parent, and a failure is told and final."""

import errno
import os
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from common.errors import SidewaysError

_POLL = 0.5  # seconds
_PARENT = "SIDEWAYS_LAUNCHER_PID"
PATH_ERRORS = "surrogateescape"  # wherever names of files are read or written: Python's own form of those not UTF-8
TEMPORARY = "SIDEWAYS_TEMPORARY"  # names a folder that the launcher removes at its end


# glibc by default gives a tick's large tensors back to the kernel and faults them in again at the next; read at start
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def shorten_thread_switches() -> None:
    """Let Python's threads take turns ten times as often as usual.

    Threads that decode live sources come back from FFmpeg thousands of times a second; each time, whoever holds the
    interpreter may keep them waiting that long.
    """
    sys.setswitchinterval(0.0005)


def stop_signals() -> list[signal.Signals]:
    """By these a run is asked to stop. A hang-up that is ignored, as under nohup, stays ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def exit_now(code: int) -> NoReturn:
    """Leave at once. After a failure a normal exit could hang: torch's RPC threads are waiting for peers."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # the terminal may be gone
        os._exit(code)


def flush_output() -> None:
    """Before Python ends: where a terminal is gone, it would end with 120 for what cannot be written any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(message: str) -> None:
    """One message for the user, on standard error."""
    with suppress(OSError, ValueError):  # nobody may be listening any more
        print(f"sideways: {message}", file=sys.stderr, flush=True)


def remember_parent() -> None:
    """Remember who started this process, before anything slow: the parent may be gone by the time it is watched."""
    os.environ.setdefault(_PARENT, str(os.getppid()))


def become_parent() -> None:
    """Make this process the parent that those it starts watch."""
    os.environ[_PARENT] = str(os.getpid())


def allow_many_files(needed: int) -> None:
    """Raise this process's limit of open files, and that of those it starts, as far as it may be raised.

    Raises SidewaysError where that is less than `needed`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < needed:
        raise SidewaysError(
            f"only {most} files may be open at a time, and this run needs up to {needed}: raise the limit "
            f"(ulimit -n {needed}), or use fewer stages or slots"
        )


def too_many_files(error: BaseException) -> str:
    """A sentence for an error by which no more files can be opened; nothing for others."""
    if getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"no more files can be opened ({error}): raise the limit (ulimit -n 4096)"


def watch_parent(who: str) -> None:
    """End this process within a second of its parent's death (kill -9 of the launcher leaves no orphans)."""
    remember_parent()
    parent = int(os.environ[_PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        print_error(f"{who}: the launcher (pid {parent}) is gone, so this process ends too; start the run again")
        exit_now(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
