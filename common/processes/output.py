"""What a process of the run says on its way out: no failure goes unreported, and no exit hangs."""

import os
import sys
from contextlib import suppress
from typing import NoReturn

from common.errors import SidewaysError
from common.processes.caller import write_error


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
