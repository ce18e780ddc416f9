"""The command line in a subprocess, in the foreground or in the background, and free ports."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.settings import write_run_file

_MEMBER = re.compile(r"coordinator|(stage|reader)\d+")


def sideways(
    *arguments: str | Path, cwd: Path, timeout: float = 120, before: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end. `before` is a folder to put first on Python's path."""
    command = [sys.executable, "-P", "-m", "coordinator", *map(str, arguments)]
    variables = environment()
    if before is not None:
        variables["PYTHONPATH"] = f"{before}{os.pathsep}{variables['PYTHONPATH']}"
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="surrogateescape", timeout=timeout, env=variables
    )


def environment() -> dict[str, str]:
    """The environment variables for a run that a test starts in any working directory."""
    root = str(Path(__file__).parents[2])
    paths = [root, *(os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "140"}


class Background:
    """`sideways train` in the background."""

    def __init__(self, run_file: Path, *arguments: str, under: Sequence[str] = ()) -> None:
        """`under` is a command through which to start it, such as nohup."""
        self.folder = run_file.parent
        self.log = open(self.folder / "log", "w+")  # noqa: SIM115
        command = [*under, sys.executable, "-P", "-m", "coordinator", "train", str(run_file), *arguments]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT, env=environment()
        )

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        files = list(self.folder.glob("runs/*/metrics.jsonl"))
        if not files:
            return []
        complete = [text for text in files[0].read_text().splitlines(keepends=True) if text.endswith("\n")]
        return [json.loads(text) for text in complete]

    def wait_for_tick(self, tick: int, timeout: float = 60) -> None:
        """Wait until a stage has reported `tick`."""
        end = time.monotonic() + timeout
        while not any(line.get("tick", -1) >= tick for line in self.metrics()):
            assert self.process.poll() is None, f"ended early with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < end, f"tick {tick} was not reached:\n{self.output()}"
            time.sleep(0.05)

    def wait_for_output(self, pattern: str, timeout: float) -> None:
        """Wait until the output matches `pattern`."""
        end = time.monotonic() + timeout
        while not re.search(pattern, self.output()):
            assert time.monotonic() < end, f"no {pattern!r} within {timeout} s:\n{self.output()}"
            time.sleep(0.05)

    def members(self) -> dict[str, int]:
        """The process ids of "coordinator", "stage0" …, "reader0" … (by rank) and "redis"."""
        pids: dict[str, int] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):  # parents come before their children
            with suppress(psutil.Error):  # it may have just ended
                if "redis-server" in " ".join(child.cmdline()):
                    pids["redis"] = child.pid
                elif _MEMBER.fullmatch(child.name()) and child.status() != psutil.STATUS_ZOMBIE:
                    pids.setdefault(child.name(), child.pid)
        return pids

    def decoder(self) -> int:
        """The id of a process that decodes videos, for the coordinator or a reader. Raises KeyError if none does."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "coordinator.video.decoder_pool.worker" in child.cmdline():
                    return child.pid
        raise KeyError("decoder")

    def send(self, number: signal.Signals) -> None:
        """Signal the launcher."""
        self.process.send_signal(number)

    def end(self, timeout: float) -> int:
        """Wait until the launcher has ended. Returns its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.output()}") from None

    def output(self) -> str:
        """The output so far."""
        self.log.flush()
        return (self.folder / "log").read_text()


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that are free now, below the system's range of ephemeral ports."""
    for first in range(20010 + os.getpid() % 1000 * 10, 32000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def train(folder: Path, tree: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    done = sideways("train", write_run_file(folder / "run.toml", tree), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "it"
