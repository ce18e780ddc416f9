"""The model of the best evaluation so far, which a run keeps beside the newest one."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import SidewaysError
from coordinator.monitor.evaluation_scores import Evaluation, Evaluator
from coordinator.run_directory import BEST, METRICS, RunDirectory, saved_tick


class BestModel:
    """Keeps the run directory's best.safetensors.

    Attributes:
        tick: of the best evaluation so far whose model is kept; None before the first.
        value: its figure, that of the setting checkpoint.best; None likewise.
    """

    def __init__(self, directory: RunDirectory, evaluator: Evaluator, warn: Callable[[str], None]) -> None:
        """Go on from what an earlier attempt kept, if the run still has that evaluation."""
        self._directory, self._evaluator, self._warn = directory, evaluator, warn
        self.tick: int | None = None
        self.value: float | None = None
        tick = saved_tick(directory.path / BEST)
        value = None if tick is None else _figure(directory.path / METRICS, tick, f"val_{evaluator.best}")
        if value is not None:
            self.tick, self.value = tick, value

    def evaluated(self, tick: int, found: Evaluation) -> None:
        """Keep the model that was just saved if its evaluation is the best so far. Warns on failure."""
        if found.score is None or (self.value is not None and found.score <= self._sign * self.value):
            return
        try:
            self._directory.keep_best_model()
        except SidewaysError as error:
            self._warn(f"the best model, of tick {tick}, could not be kept: {error}")
            return
        self.tick, self.value = tick, self._sign * found.score

    @property
    def _sign(self) -> int:
        return -1 if self._evaluator.smaller else 1


def _figure(metrics: Path, tick: int, name: str) -> float | None:
    """The figure of the evaluation at `tick`; None if there is none."""
    value = None
    with open(metrics, encoding="utf-8") as lines:
        for text in lines:
            with suppress(ValueError):
                line: dict[str, Any] = json.loads(text)
                if line.get("kind") == "evaluation" and line.get("tick") == tick:
                    value = line.get(name)
    return value
