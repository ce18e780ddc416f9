"""Follows the metrics.jsonl of a run, which another process writes, and passes its lines on."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from coordinator.run_directory import METRICS

Event = dict[str, Any]


class Stop(Exception):
    """Raised by a callback: the training ends in order, its model is saved, and `train` returns its Result."""


class Follower:
    """Calls each callback with each line that is written from now on, as a dictionary."""

    def __init__(self, callbacks: Sequence[Callable[[Event], object]]) -> None:
        self._callbacks = callbacks
        self._file: IO[str] | None = None
        self._newest = time.time() - 1e-3  # of the lines passed on; they are rounded to a millisecond

    def follow(self, directory: Path) -> None:
        """Pass on what was written since. A callback's exceptions are passed on, too."""
        path = directory / METRICS
        if not self._callbacks or not path.is_file():
            return
        if self._file is None or os.fstat(self._file.fileno()).st_ino != path.stat().st_ino:
            self._open(path)
        while (line := self._next()) is not None:
            self._pass_on(line)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> None:
        """Open the file where the new lines begin. A run that resumes replaces the file by one with fewer lines."""
        self.close()
        self._file = open(path, encoding="utf-8")  # noqa: SIM115
        place, newest = 0, self._newest
        while (line := self._next()) is not None and line["time"] <= newest:
            place = self._file.tell()
        self._file.seek(place)

    def _next(self) -> Event | None:
        """The next complete line."""
        assert self._file is not None
        place = self._file.tell()
        text = self._file.readline()
        if not text.endswith("\n"):
            self._file.seek(place)
            return None
        line: Event = json.loads(text)
        return line

    def _pass_on(self, line: Event) -> None:
        self._newest = line["time"]
        for callback in self._callbacks:
            callback(line)
