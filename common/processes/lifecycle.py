"""Start and exit of a run's processes: none outlives its parent, and every failure is reported and final."""

import errno
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from common.errors import SidewaysError
from common.processes.caller import write_error
from common.processes.snapshot_folder import remove_folder

_POLL = 0.5  # seconds
_PATIENCE = 2.0  # seconds for a last message
_MOST_HELD = 15  # seconds from a held signal to `note_stop_signals`: joining takes one or two
_held: list[int] = []  # signals
_PARENT = "SIDEWAYS_LAUNCHER_PID"
PATH_ERRORS = "surrogateescape"  # for reading and writing file names, which need not be UTF-8
TEMPORARY = "SIDEWAYS_TEMPORARY"  # environment: a folder that the launcher removes when it exits


# by default glibc returns a tick's large tensors to the kernel and faults them in again at the next; read at start
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def use_allocator() -> None:
    """Start this program anew, unless it was started with the allocator's settings. Call it first: nothing is kept."""
    if not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**ALLOCATOR, **os.environ})  # noqa: S606


def quiet_torch() -> None:
    """Keep torch from warning about every peer that exits. Call it before torch is imported."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def shorten_thread_switches() -> None:
    """Set the interpreter's thread switch interval to 0.5 ms, a tenth of the default.

    Threads that decode live sources return from FFmpeg thousands of times a second. Each time they may have to wait
    that long for the GIL.
    """
    sys.setswitchinterval(0.0005)


def hold_stop_signals() -> None:
    """Hold the signals that ask this process to stop until it calls `note_stop_signals`; else they would end it.

    If it does not get so far within some seconds of one, for example because it waits for a peer, it ends then.
    """

    def hold(number: int, frame: FrameType | None) -> None:
        _held.append(number)
        signal.alarm(_MOST_HELD)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in stop_signals():
        signal.signal(number, hold)


def holds_stop_signals() -> bool:
    """Whether the signals that ask this process to stop do not end it."""
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def note_stop_signals(note: Callable[[int, FrameType | None], None]) -> None:
    """Call `note` for each signal that asks this process to stop, which then goes on; without a frame for held ones."""
    for number in stop_signals():
        signal.signal(number, note)
    signal.alarm(0)
    while _held:
        note(_held.pop(0), None)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to stop. SIGHUP is left out if it is ignored, as under nohup."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def exit_now(code: int) -> NoReturn:
    """Exit immediately. After a failure a normal exit could hang, since torch's RPC threads wait for peers."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # the terminal may be gone
        os._exit(code)


def flush_output() -> None:
    """Flush stdout and stderr before exit. With a closed terminal Python would exit with status 120 otherwise."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(message: str | SidewaysError) -> None:
    """Print a message for the user to stderr, and tell it to the caller of `sideways.train`."""
    write_error(type(message).__name__ if isinstance(message, SidewaysError) else "", str(message))
    with suppress(OSError, ValueError):  # stderr may be closed
        print(f"sideways: {message}", file=sys.stderr, flush=True)


def remember_parent() -> None:
    """Record the parent's pid. Call it early: the parent may be gone by the time `watch_parent` starts."""
    os.environ.setdefault(_PARENT, str(os.getppid()))


def become_parent() -> None:
    """Make this process the parent that its child processes watch."""
    os.environ[_PARENT] = str(os.getpid())


def allow_many_files(needed: int) -> None:
    """Raise the open-file limit of this process and its children to the hard limit.

    Raises:
        SidewaysError: the hard limit is below `needed`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < needed:
        raise SidewaysError(
            f"only {most} files may be open at a time, and this run needs up to {needed}: raise the limit "
            f"(ulimit -n {needed}), or use fewer stages or slots"
        )


def too_many_files(error: BaseException) -> str:
    """A message for an EMFILE or ENFILE error; an empty string for any other error."""
    if getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"no more files can be opened ({error}): raise the limit (ulimit -n 4096)"


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
