"""What `sideways.train` makes of its arguments; whole runs from Python are in tests/distributed/test_python.py."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.python import train as module
from tests.support import models


def test_functions_of_files_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def run(arguments: Sequence[str], folder: Path, callbacks: Sequence[Callable[..., None]]) -> None:
        seen.append(tomllib.loads(Path(arguments[0]).read_text()))

    monkeypatch.setattr(module, "_run", run)
    metrics = ["Accuracy", models.with_dropout]
    module.train(task="regress", ticks=1, data={"train": ".", "flip": 0}, loss=models.with_dropout, val_metrics=metrics)
    file = f"{Path(models.__file__)}:with_dropout"
    assert (seen[0]["loss"], seen[0]["val_metrics"]) == (file, ["Accuracy", file])
