"""Progress reports, and events for listeners."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from common.messages.stage_report import Progress
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.monitor.listener import EvaluationEvent, ProgressEvent
from coordinator.monitor.run_totals import RunTotals, StageTotals


def progress(**fields: Any) -> Progress:
    """A report of stage 0, tick 0, with the given fields."""
    counts = dict.fromkeys(("attempt", "stage", "dropped", "tick", "rows", "gated", "peak_memory_bytes"), 0)
    counts |= dict.fromkeys(("bytes_forward", "bytes_backward"), 0)
    seconds = [f"{name}_seconds" for name in ("compute", "receive_wait", "send_wait", "data_wait")]
    rest = {"ticks": 1, "seconds": 0.1, "gradient_norm": None, "rate": 1e-3}
    return Progress(**{**counts, **dict.fromkeys(seconds, 0.0), **rest, **fields})


def progress_event(line: dict[str, Any] | None = None, **fields: Any) -> ProgressEvent:
    """The event of such a report. `line` replaces its line for metrics.jsonl."""
    report = progress(**fields)
    totals = RunTotals([StageTotals() for _ in range(report.stage + 1)], slots=4)
    totals.add(report)
    event = ProgressEvent.of(report, totals)
    return event if line is None else replace(event, line=line)


def evaluation_event(
    tick: int, figures: dict[str, Any], pictures: tuple[Tensor, Tensor] | None = None, **evaluation: Any
) -> EvaluationEvent:
    """The event of an evaluation with the given figures."""
    result = Evaluation(**{"clips": 0, "frames": 0, **evaluation})
    return EvaluationEvent(tick, 1.0, result, figures, pictures, ["ant", "b$e$e"])
