"""The result of a training."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import SidewaysError
from coordinator.python.model import Model, load
from coordinator.run_directory import CONFIG, METRICS, SUMMARY

_OF_THE_TOP_STAGE = ("loss", "accuracy", "learning_rate")
_NO_SCORES = ("kind", "time", "tick", "train_seconds")


@dataclass(frozen=True, repr=False)
class Result:
    """What a run left.

    Attributes:
        directory: the run directory.
        summary: the contents of its summary.json, such as val_top1, ticks and frames_per_second; empty if it has none,
            as while it runs, or after it was killed.
        curves: by name (loss, accuracy, learning_rate, val_top1, …) the reported values, float64 [n, 2]: tick, value;
            of replicas their mean. From the first tick on, also if this run resumed another.
    """

    directory: Path
    summary: dict[str, Any]
    curves: dict[str, NDArray[np.float64]]

    def __repr__(self) -> str:
        figures = {name: value for name, value in self.summary.items() if name == "ticks" or name.startswith("val_")}
        told = [f"{name} = {value:.5g}" for name, value in figures.items() if isinstance(value, int | float)]
        return f"Result({', '.join([repr(str(self.directory)), *told])}; curves: {', '.join(self.curves) or 'none'})"

    def model(self, best: bool = False) -> Model:
        """The trained model, or that of the best evaluation: `sideways.load(result.directory, best)`."""
        return load(self.directory, best)


def result(run: str | Path) -> Result:
    """The Result of any run directory, as `train` returns it; of a run that is still alive, as far as it is.

    Raises:
        SidewaysError: there is no such run.
    """
    directory = Path(run)
    if not (directory / CONFIG).is_file():
        raise SidewaysError(f"{directory} is no run directory: pass one, such as runs/digits-…")
    try:
        return read_result(directory)
    except OSError:
        return Result(directory, {}, read_curves(directory / METRICS))


def read_result(directory: Path) -> Result:
    """The result of a run that has ended. Raises OSError if there is none."""
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    return Result(directory, summary, read_curves(directory / METRICS))


def read_curves(metrics: Path) -> dict[str, NDArray[np.float64]]:
    """The curves of a metrics.jsonl, as in `Result`; none if there is no such file."""
    points: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for line in _lines(metrics):
        if line["kind"] == "evaluation":
            names = [name for name in line if name not in _NO_SCORES]
        else:
            names = [name for name in _OF_THE_TOP_STAGE if name in line and "loss" in line]
        for name in names:
            points[name].setdefault(line["tick"], []).append(math.nan if line[name] is None else line[name])
    return {
        name: np.array([(tick, fmean(values)) for tick, values in own.items()], np.float64)
        for name, own in points.items()
    }


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """All complete lines: a run that is alive, or was killed, may have written half of one."""
    texts = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.is_file() else []
    return [json.loads(text) for text in texts if text.endswith("\n")]
