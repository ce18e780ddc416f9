"""Totals of the run, summed over the stages' progress reports."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from common.messages.stage_report import Progress

_RECENT = 20  # reports in the running loss, accuracy and speed


@dataclass
class StageTotals:
    """Sums over a stage's reports, in seconds. The first, which includes the warm-up, is dropped after the second."""

    reports: int = 0
    ticks: int = 0
    seconds: float = 0.0
    compute: float = 0.0
    peak_memory: int = 0  # bytes
    recent_wait: float = 0.0  # fraction of the time since the previous report

    def add(self, report: Progress) -> None:
        """Add a progress report."""
        self.recent_wait = report.wait_seconds / max(report.seconds, 1e-9)
        self.peak_memory = max(self.peak_memory, report.peak_memory_bytes)
        self.reports += 1
        if self.reports == 2:
            self.ticks, self.seconds, self.compute = 0, 0.0, 0.0
        self.ticks += report.ticks
        self.seconds += report.seconds
        self.compute += report.compute_seconds

    def per_tick_ms(self, seconds: float) -> float:
        """Convert a sum of seconds to milliseconds per tick."""
        return 1e3 * seconds / max(self.ticks, 1)


@dataclass
class RunTotals:
    """The totals of the run so far."""

    stages: list[StageTotals]
    slots: int
    total_ticks: int = 0  # ticks of the whole training
    replicas: int = 1
    tick: int = 0
    dropped: int = 0
    _recent: deque[tuple[float, int, float | None]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _speed: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, report: Progress) -> None:
        """Add a progress report of any stage."""
        self.dropped = max(self.dropped, report.dropped)
        if not report.replica:  # whose times stand for those of the others
            self.stages[report.stage].add(report)
        if report.stage == 0 and not report.replica:
            self.tick = report.tick + 1
            self._speed.append((report.ticks, report.seconds))
        if report.loss is not None and report.counted is not None:
            self._recent.append((report.loss * report.counted, report.counted, report.correct))

    @property
    def loss(self) -> float | None:
        """Mean loss over the rows of the top stage's recent reports, of all replicas."""
        rows = sum(rows for _, rows, _ in self._recent)
        return sum(loss for loss, _, _ in self._recent) / rows if rows else None

    @property
    def accuracy(self) -> float | None:
        """Share of recent labels that were right; None for tasks without classes."""
        counts = [(rows, correct) for _, rows, correct in self._recent if correct is not None]
        rows = sum(rows for rows, _ in counts)
        return sum(correct for _, correct in counts) / rows if rows else None

    @property
    def ticks_per_second(self) -> float:
        """Over stage 0's recent reports; 0 before the first."""
        seconds = sum(seconds for _, seconds in self._speed)
        return sum(ticks for ticks, _ in self._speed) / seconds if seconds else 0.0

    @property
    def tick_ms(self) -> float:
        """Mean wall time of a tick, in ms, over the whole training."""
        return self.stages[0].per_tick_ms(self.stages[0].seconds)

    @property
    def slowest_stage_ms(self) -> float:
        """Mean compute time per tick of the slowest stage, in ms."""
        return max(stage.per_tick_ms(stage.compute) for stage in self.stages)


def metric_line(report: Progress) -> dict[str, Any]:
    """A progress report as a line of metrics.jsonl: per tick, in milliseconds and bytes."""
    ticks = report.ticks
    line: dict[str, Any] = {"kind": "progress", "stage": report.stage, "tick": report.tick, "ticks": ticks}
    if report.replica:
        line["replica"] = report.replica
    line["tick_ms"] = round(1e3 * report.seconds / ticks, 4)
    for name in ("compute", "receive_wait", "send_wait", "data_wait"):
        line[f"{name}_ms"] = round(1e3 * getattr(report, f"{name}_seconds") / ticks, 4)
    if report.outside_cpu_seconds is not None:
        line["cpu_outside_model_ms"] = round(1e3 * report.outside_cpu_seconds / ticks, 4)
    line["learning_rate"] = report.rate
    line["peak_memory_mib"] = round(report.peak_memory_bytes / 2**20, 2)
    line["bytes"] = (report.bytes_forward + report.bytes_backward) // ticks
    line["gradient_norm"] = report.gradient_norm
    line["gated_share"] = report.gated / report.rows if report.rows else 0.0
    if report.loss is not None:
        line["loss"] = report.loss if math.isfinite(report.loss) else None  # JSON has no NaN
        if report.accuracy is not None:
            line["accuracy"] = report.accuracy
    if report.losses is not None:
        line["losses"] = report.losses
    return line
