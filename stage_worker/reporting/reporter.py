"""A stage's reports to the coordinator: progress a few times a second, the end of a phase, a failure.

Reports never block: one that does not fit in the queue is dropped and counted.
"""

import time
from typing import TYPE_CHECKING, Any

import torch
import zmq

from common.config.settings import Config
from common.messages.stage_report import Done, Failed, Progress, Report, Signalled, encode_report
from common.processes.membership import Membership
from common.rule.stage import Stage
from common.telemetry.peak_memory import peak, reset_peak
from stage_worker.reporting.coordinator_watch import CoordinatorWatch
from stage_worker.reporting.reported_loop import ReportedLoop

if TYPE_CHECKING:
    from stage_worker.reporting.prometheus import StageMetrics

_QUEUE = 1000  # reports at most
_LINGER_MS = 2000
_MOST_LOSSES = 4096  # losses in one report, one per tick


class Reporter:
    """Sends a stage's reports.

    Attributes:
        due: whether a report follows this tick, so that values only needed for reports are measured in it.
        every: seconds between reports.
        each_loss: whether to report the loss of every tick, not only the mean.
        gradient_norm: norm measured in the current tick if `due` or if the phase ends with it, else None.
        stop_signal: number of a stop signal that is still to be reported; 0 if there is none.
        metrics: metrics for Prometheus; None without metrics.port.
        coordinator: ends this process if the coordinator is lost.
    """

    def __init__(self, me: Membership, address: str) -> None:
        """Connect to the coordinator's endpoint `address`."""
        self.stage, self.every, self.each_loss = me.stage, 0.5, False
        self._attempt, self._replica, self.due = me.attempt, me.of_replica, False
        self.gradient_norm: float | None = None
        self.stop_signal = 0
        self.metrics: StageMetrics | None = None
        self._dropped = 0
        self._context = zmq.Context()  # its own, so that closing it waits only for these messages
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        self.coordinator = CoordinatorWatch(me, self._socket)
        me.connect(self._socket, address, to=me.coordinator)
        self._count_memory(torch.device("cpu"))
        self._reset_counters()

    def configure(self, config: Config, device: torch.device, metrics: "StageMetrics | None") -> None:
        """Apply a run's settings. Call before the stage is built on `device`: memory is measured from here on."""
        self.every, self.each_loss, self.metrics = config.report.every, config.report.losses, metrics
        self._count_memory(device)

    def _count_memory(self, device: torch.device) -> None:
        self._device, self._memory_before = device, reset_peak(device)
        self._losses = torch.zeros(_MOST_LOSSES, device=device)

    def begin(self, loop: ReportedLoop) -> None:
        """Start a phase: reset the counters."""
        _zero(loop)
        self._reset_counters()
        if self.metrics is not None:
            self.metrics.begin()

    def _reset_counters(self) -> None:
        self._ticks = self._losses_held = 0
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._next = self._started + self.every

    def ticked(self, tick: int, loop: ReportedLoop) -> None:
        """Count a tick, and send a report if one is due."""
        self._ticks += 1
        if self.metrics is not None:
            self.metrics.ticked(loop.times())
        if loop.stage.loss is not None:
            self._losses[self._losses_held] = loop.stage.loss
            self._losses_held += 1
        if self.due:
            self.flush(tick, loop)
        elif time.perf_counter() >= self._next or self._losses_held == _MOST_LOSSES - 1:
            self.due = True

    def flush(self, tick: int, loop: ReportedLoop) -> None:
        """Report the ticks since the last report, and zero the counters."""
        if self._ticks:
            report = self._progress(tick, loop)
            self._send(report)
            if self.metrics is not None:
                self.metrics.reported(report)
        _zero(loop)
        self.due, self.gradient_norm = False, None
        self.tell_signal()
        self._reset_counters()

    def tell_signal(self) -> None:
        """Report a pending stop signal, if there is one."""
        if self.stop_signal:
            self._send(Signalled(**self._sender(), signal=self.stop_signal))
            self.stop_signal = 0

    def done(self) -> None:
        """Report that a phase has ended."""
        self._send(Done(**self._sender()))

    def fail(self, message: str, code: int) -> None:
        """Report that this process exits with `code` because of `message`."""
        self._send(Failed(**self._sender(), message=message, code=code))

    def _sender(self) -> dict[str, Any]:
        return {"attempt": self._attempt, "stage": self.stage, "replica": self._replica, "dropped": self._dropped}

    def _send(self, report: Report) -> None:
        """Send a report; drop and count it if the queue is full."""
        try:
            self._socket.send(encode_report(report), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped += 1

    def flush_and_close(self) -> None:
        """Close the connection. Reports still queued get two seconds to be sent."""
        if self.coordinator.stop():
            return  # nobody is there to get them
        self._socket.close(_LINGER_MS)
        self._context.term()

    def _progress(self, tick: int, loop: ReportedLoop) -> Progress:
        stage, times = loop.stage, loop.times()
        forward, backward = loop.bytes_sent()
        outside = None if loop.model_cpu is None else time.process_time() - self._cpu - loop.model_cpu
        return Progress(
            **self._sender(),
            tick=tick,
            ticks=self._ticks,
            seconds=time.perf_counter() - self._started,
            compute_seconds=loop.compute_seconds(),
            receive_wait_seconds=times.receive_wait,
            send_wait_seconds=times.send_wait,
            data_wait_seconds=times.data_wait,
            outside_cpu_seconds=outside,
            rows=stage.rows,
            gated=stage.gated,
            gradient_norm=self.gradient_norm,
            rate=stage.updater.rate,
            peak_memory_bytes=peak(self._device, self._memory_before),
            bytes_forward=forward,
            bytes_backward=backward,
            **self._loss(stage),
        )

    def _loss(self, stage: Stage) -> dict[str, Any]:
        """Fields of a report that only the top stage sets."""
        if not self._losses_held:
            return {}
        losses, objective = self._losses[: self._losses_held], stage.objective
        found: dict[str, Any] = {"losses": losses.tolist()} if self.each_loss else {}
        if objective.counted:  # rows without a target counted as zero
            found["loss"] = float(losses.mean()) * (stage.rows / objective.counted)
            found["counted"] = objective.counted
            found["correct"] = float(objective.correct) if objective.task.has_classes else None
        return found


def _zero(loop: ReportedLoop) -> None:
    loop.clear()
    loop.stage.rows = loop.stage.gated = 0
    loop.stage.objective.correct.zero_()
    loop.stage.objective.counted = 0
