"""`sideways train` as a child process of the user's: its output, its end, and stopping it.

It runs in a session of its own, so that a Ctrl-C in the terminal reaches only the user's process, which passes it on
once. If the user's process dies, the run stops as after SIGTERM.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO

from common.processes.caller import CALLER
from common.processes.python_command import python_command
from sideways.import_scope import is_installed

_POLL = 0.1  # seconds
_DRAIN = 5.0  # seconds in which the last of the output arrives
_STOP_TIMEOUT = 180.0  # seconds; the launcher allows its processes 30, or 150 to save what is only in memory
_ROOT = Path(__file__).resolve().parents[2]


class RunProcess:
    """The launcher of a run."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        """`arguments`: of `sideways train`; `folder`: where the run writes what its caller is to know."""
        streams = [None if _is_terminal(stream) else subprocess.PIPE for stream in (sys.stdout, sys.stderr)]
        self._process = subprocess.Popen(
            python_command("sideways", "train", *arguments, "--caller", str(os.getpid())),
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            env={**_environment(), CALLER: str(folder)},
            text=True,
            errors="replace",
            start_new_session=True,
        )
        pairs = ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))
        self._relays = [Thread(target=_relay, args=pair, daemon=True) for pair in pairs if pair[0] is not None]
        for relay in self._relays:
            relay.start()

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        return self._process.returncode

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Wait until the run has ended. An exception, also of `meanwhile`, stops the run."""
        try:
            while self._process.poll() is None:
                meanwhile()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_POLL)
        except BaseException:
            self._stop()
            raise
        finally:
            for relay in self._relays:
                relay.join(_DRAIN)

    def _stop(self) -> None:
        """As after Ctrl-C: the run ends in order and saves its model. A second Ctrl-C kills it."""
        try:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT)
        finally:
            self._process.kill()  # unless it has ended; its processes notice that
            self._process.wait()


def _environment() -> dict[str, str]:
    """The environment in which Python finds this package, also if only the user's process had it on its path."""
    if is_installed(_ROOT):
        return dict(os.environ)
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and any(stream is real for real in (sys.__stdout__, sys.__stderr__)) and stream.isatty()


def _relay(source: IO[str], to: IO[str]) -> None:
    """Pass on lines to a stream of Python, which in a notebook is none of the process's own."""
    with source:
        for line in source:
            with suppress(OSError, ValueError):
                to.write(line)
                to.flush()
