"""Passes a run's events to a tracker, in a thread of its own.

consumes   events of the run
produces   curves, tables and files in the tracker
waits for  the tracker; the training does not. While it does not keep up, events are kept up to a limit; beyond it
           newer ones are dropped and counted. After an error nothing more is sent.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any

from torch import Tensor

from common.config.secrets import public_settings
from common.config.settings import Config, TrackerName
from common.partition.balance import BlockCost, by_stage
from common.run_registry.records import IN_ORDER, State
from coordinator.monitor.figures import curves
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent
from coordinator.run_directory import CONFIG, MODEL, SUMMARY
from coordinator.trackers.tracker import KINDS, Kind, Row, Tracker

_BACKLOG = 4096  # events
_UPLOAD, _EXIT = 300.0, 10.0  # seconds for the last calls; the latter if the run was stopped or failed

Call = Callable[[Tracker], object]


class TrackerListener(Listener):
    """Follows one run for one tracker. All methods but `close` return at once."""

    def __init__(
        self, name: TrackerName, run: Path, config: Config, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        """Open the tracker, in the thread. `say` and `warn` are called there."""
        self._name, self._run, self._say, self._warn = name, run, say, warn
        self._calls: Queue[Call | None] = Queue(_BACKLOG)
        self._failed, self._dropped = False, 0
        self._end: tuple[State, Sequence[Path]] = ("failed", ())
        settings, hidden = public_settings(config)
        self._files = (MODEL, SUMMARY) if hidden else (MODEL, CONFIG, SUMMARY)
        arguments = KINDS[name], flat(settings)
        self._thread = Thread(target=self._work, args=arguments, name=name, daemon=True)
        self._thread.start()

    def measured(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """The blocks, their costs and their stages, as a table."""
        columns = ["block", "stage", "parameters", "forward + backward ms", "activation KiB"]
        rows: list[Row] = [
            (cost.name, stage, cost.parameters, round(cost.milliseconds, 3), round(cost.activation_kib, 1))
            for stage, part in enumerate(by_stage(costs, split))
            for cost in part
        ]
        self._do(lambda tracker: tracker.table("partition", columns, rows, 0))

    def progress(self, event: ProgressEvent) -> None:
        """Curves `stage i/name`."""
        self._curves(f"stage {event.report.stage}", event.line, event.report.tick)

    def probed(self, found: dict[str, Any]) -> None:
        """Curves `probe i/name`, i the stage."""
        for row in found["stages"]:
            self._curves(f"probe {row['stage']}", row, int(found["tick"]))

    def evaluated(self, event: EvaluationEvent) -> None:
        """Curves `evaluation/name`; the classes' scores and the confusion matrix, as tables."""
        self._curves("evaluation", event.figures, event.tick)
        confusion, names = event.evaluation.confusion, list(event.classes)
        if confusion is not None:
            scores, matrix = _by_class(confusion, names), _matrix(confusion, names)
            columns = ["class", "clips", "correct", "most often taken for"]
            self._do(lambda tracker: tracker.table("evaluation", columns, scores, event.tick))
            self._do(lambda tracker: tracker.table("confusion", ["true class", *names], matrix, event.tick))

    def close(self, state: State, message: str, tick: int) -> None:
        """Store model, summary and settings without passwords, unless the run has failed, and wait for the tracker."""
        files = [self._run / name for name in self._files if state in IN_ORDER and (self._run / name).is_file()]
        limit = _UPLOAD if state == "finished" else _EXIT
        self._end = state, files
        end = time.monotonic() + limit
        with suppress(Full):
            if self._thread.is_alive():
                self._calls.put(None, timeout=limit)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"{self._name} has not taken everything within {limit:.0f} s, and the rest is lost to it")
        if self._dropped:
            self._warn(f"{self._name} did not keep up: it lacks {self._dropped} reports that are in metrics.jsonl")

    def _curves(self, where: str, figures: dict[str, Any], tick: int) -> None:
        if points := curves(where, figures):
            self._do(lambda tracker: tracker.curves(points, tick))

    def _do(self, call: Call) -> None:
        if self._failed:
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._dropped += 1

    # ---- the thread

    def _work(self, kind: Kind, settings: dict[str, Any]) -> None:
        try:
            tracker = kind.open(self._run, settings)
            self._say(f"{self._name}: {tracker.where}")
            while (call := self._calls.get()) is not None:
                call(tracker)
            tracker.close(*self._end)
        except Exception as error:  # from the network, the disk or the tracker itself
            self._failed = True
            self._warn(
                f"{self._name} gets no more reports: {str(error) or type(error).__name__}. The run continues without "
                f"it; to have it, {kind.remedy}"
            )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their names as for --set: section.key."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _matrix(confusion: Tensor, names: Sequence[str]) -> list[Row]:
    return [[name, *row] for name, row in zip(names, confusion.tolist(), strict=True)]


def _by_class(confusion: Tensor, names: Sequence[str]) -> list[Row]:
    """Of each class that has clips: their number, the share that was recognised, and the most frequent error."""
    rows: list[Row] = []
    for true, (name, counts) in enumerate(zip(names, confusion.tolist(), strict=True)):
        clips, right = sum(counts), counts[true]
        wrong = max(
            (count, other) for other, count in zip(names, [*counts[:true], 0, *counts[true + 1 :]], strict=True)
        )
        if clips:
            rows.append((name, clips, right / clips, wrong[1] if wrong[0] else None))
    return rows
