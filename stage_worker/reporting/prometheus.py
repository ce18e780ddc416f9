"""A stage's metrics for Prometheus.

Each tick writes one row of five numbers to a preallocated buffer. The rows are added to the histograms at each report,
or when the buffer is full. All other metrics are taken from the reports.
"""

import struct
import time

import numpy as np
import torch

from common.config.settings import Config, Metrics
from common.messages.stage_report import Progress
from common.processes.membership import Membership
from common.rule.schedule import schedule_of
from common.telemetry.http_server import serve
from common.telemetry.metric_registry import MetricRegistry
from stage_worker.reporting.reported_loop import Times

_ROWS = 4096
_FORM = struct.Struct("5d")
_HISTOGRAMS = ("compute", "receive_wait", "send_wait", "data_wait")
_GAUGES = {
    "tick": "sideways_current_tick",
    "gradient_norm": "sideways_gradient_norm",
    "rate": "sideways_learning_rate",
    "peak_memory_bytes": "sideways_peak_memory_bytes",
    "loss": "sideways_loss",
}


class TickTimes:
    """Durations of ticks and of their parts, buffered until they are added to the histograms."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry
        self._memory = bytearray(_ROWS * _FORM.size)
        # one row per tick, in seconds: sums since the last report of compute, receive-, send- and data-wait; clock
        self._table = np.frombuffer(self._memory, np.float64).reshape(_ROWS, 5)
        self._rows = 0
        self._before = np.zeros((1, 5))
        self._names = [*(f"sideways_tick_{name}_seconds" for name in _HISTOGRAMS), "sideways_tick_seconds"]

    def begin(self) -> None:
        """Start a phase, whose sums start at zero."""
        self._rows = 0
        self._before[:] = 0.0, 0.0, 0.0, 0.0, time.perf_counter()

    def note(self, times: Times) -> None:
        """Store a tick. `times`: sums since `begin`, or since the last `fold` that zeroed them."""
        _FORM.pack_into(self._memory, self._rows * _FORM.size, *times, time.perf_counter())
        self._rows += 1
        if self._rows == _ROWS:
            self.fold(zeroed=False)

    def fold(self, zeroed: bool, compute: float | None = None) -> None:
        """Move the buffered ticks into the histograms.

        Args:
            zeroed: whether the sums restart at zero now.
            compute: seconds that a GPU computed in these ticks. What was measured are launches, which are scaled to it.
        """
        if not self._rows:
            return
        rows = self._table[: self._rows]
        ticks = np.diff(rows, axis=0, prepend=self._before).clip(0.0)  # rounding may make a difference negative
        if compute is not None:
            ticks[:, 0] *= compute / max(ticks[:, 0].sum(), 1e-9)
        for name, seconds in zip(self._names, ticks.T, strict=True):
            self._registry.observe(name, seconds)
        self._before[0] = rows[-1]
        if zeroed:
            self._before[0, :4] = 0.0
        self._rows = 0


class StageMetrics:
    """The metrics of a stage worker, served over HTTP from construction on.

    Attributes:
        address: host:port of the HTTP server.
    """

    def __init__(self, settings: Metrics, me: Membership) -> None:
        """Start serving. Raises ConfigError if the port or the password file cannot be used."""
        self._registry = MetricRegistry(stage=str(me.stage))
        self._stage, self._times = me.stage, TickTimes(self._registry)
        self._dropped, self._on_gpu = 0, False
        self._registry.watch("sideways_dropped_reports", lambda: self._dropped)
        self.address = serve(self._registry.registry, settings, 1 + me.local_stage, me.address)

    def configured(self, config: Config, device: torch.device) -> None:
        """Create the series of a newly built stage, with counters at 0."""
        for name in ("ticks", "gradient_rows", "gated_rows"):
            self._registry.add(f"sideways_{name}", 0)
        ways = {"forward": self._stage < config.stages - 1, "backward": self._stage > 0}
        for way in (way for way, exists in ways.items() if exists):
            self._registry.add("sideways_edge_bytes", 0, way=way)
        self._registry.set("sideways_mismatch_frames", schedule_of(config).mismatch(self._stage))
        self._on_gpu = on_gpu = device.type == "cuda"
        self._registry.watch("sideways_cuda_memory_bytes", lambda: torch.cuda.memory_allocated(device) if on_gpu else 0)

    def begin(self) -> None:
        """Start a phase of training."""
        self._times.begin()

    def ticked(self, times: Times) -> None:
        """Store a tick. `times` as returned by `ReportedLoop.times`."""
        self._times.note(times)

    def reported(self, report: Progress) -> None:
        """Update the metrics from a report. The sums behind it restart at zero."""
        registry = self._registry
        self._times.fold(zeroed=True, compute=report.compute_seconds if self._on_gpu else None)
        for field, name in _GAUGES.items():
            if (value := getattr(report, field)) is not None:
                registry.set(name, value)
        registry.add("sideways_ticks", report.ticks)
        registry.add("sideways_gradient_rows", report.rows)
        registry.add("sideways_gated_rows", report.gated)
        self._dropped = report.dropped
        for way, sent in (("forward", report.bytes_forward), ("backward", report.bytes_backward)):
            if sent:
                registry.add("sideways_edge_bytes", sent, way=way)
        if report.accuracy is not None:
            registry.set("sideways_accuracy_ratio", report.accuracy)
