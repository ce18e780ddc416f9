"""What a stage tells the coordinator: progress a few times a second, the end of a phase, a failure.

Reports are PUSHed and never wait: one that does not fit the queue is dropped and counted. The same connection is the
worker's lifeline: when the coordinator is gone, so is the reason to run.
"""

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import torch
import zmq
from zmq.utils.monitor import recv_monitor_message

from common.process import complain, exit_now
from common.wire import encode

if TYPE_CHECKING:
    from stage_worker.loop import Loop

_QUEUE = 1000  # reports
_MOST_LOSSES = 4096  # ticks in one report


class Reporter:
    """A stage's voice.

    Attributes:
        due: a report follows this tick, so what is only measured for reports is measured now.
        every: seconds between reports.
        each_loss: report the loss of every tick, not only their mean.
        gradient_norm: as measured in a due tick; None if there was none.
        stop_signal: a signal that this process got and that the coordinator should know of.
    """

    def __init__(self, address: str, stage: int, speaks: bool = True) -> None:
        """Connect to the coordinator. `speaks`: say so on standard error when it is gone (one stage of a host does)."""
        self.stage, self.every, self.each_loss = stage, 0.5, False
        self._speaks = speaks
        self.due = False
        self.gradient_norm: float | None = None
        self.stop_signal = 0
        self._dropped = 0
        self._leaving = False
        self._alone = threading.Event()
        self._context = zmq.Context()  # its own, so that closing it waits for these messages alone
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        self._watch_coordinator()
        self._socket.connect(address)
        self._losses = torch.zeros(_MOST_LOSSES)
        self._restart()

    def begin(self, loop: "Loop") -> None:
        """A phase begins: forget what was counted outside it."""
        if loop.stage.is_top:
            self._losses = torch.zeros(_MOST_LOSSES, device=next(loop.stage.blocks.parameters(), self._losses).device)
        _zero(loop)
        self._restart()

    def _restart(self) -> None:
        self._ticks = self._losses_held = 0
        self._started, self._cpu = time.perf_counter(), time.process_time()
        self._next = self._started + self.every

    def ticked(self, tick: int, loop: "Loop") -> None:
        """Count a tick; send a report if one is due."""
        self._ticks += 1
        if loop.stage.loss is not None:
            self._losses[self._losses_held] = loop.stage.loss
            self._losses_held += 1
        if self.due:
            self.flush(tick, loop)
        elif time.perf_counter() >= self._next or self._losses_held == _MOST_LOSSES - 1:
            self.due = True

    def flush(self, tick: int, loop: "Loop") -> None:
        """Report what happened since the last report, and zero the counters."""
        if self._ticks:
            self.send("progress", **self._summary(tick, loop))
        _zero(loop)
        self.due, self.gradient_norm = False, None
        self.tell_signal()
        self._restart()

    def tell_signal(self) -> None:
        """Pass on that somebody asked this process to stop."""
        if self.stop_signal:
            self.send("signal", signal=self.stop_signal)
            self.stop_signal = 0

    def send(self, kind: str, **fields: Any) -> None:
        """Send a report; drop and count it if the coordinator does not keep up."""
        try:
            message = {"kind": kind, "stage": self.stage, "dropped": self._dropped, **fields}
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped += 1

    def expect_farewell(self) -> None:
        """From now on the coordinator may go."""
        self._leaving = True

    def await_farewell(self, seconds: float) -> None:
        """Wait until the coordinator is gone: it has then had the answers to its last calls."""
        self._alone.wait(seconds)

    def flush_and_close(self, linger: float = 2.0) -> None:
        """Close the connection on purpose; what was sent gets `linger` seconds to arrive."""
        self._leaving = True
        self._socket.disable_monitor()
        self._socket.close(int(linger * 1000))
        self._context.term()

    def _summary(self, tick: int, loop: "Loop") -> dict[str, Any]:
        stage, ports = loop.stage, loop.ports
        receive_wait = sum(port.waited for port in ports.receivers)
        summary: dict[str, Any] = {
            "tick": tick,
            "ticks": self._ticks,
            "seconds": time.perf_counter() - self._started,
            "compute_seconds": loop.compute,
            "receive_wait_seconds": receive_wait,
            "send_wait_seconds": sum(port.waited for port in ports.senders),
            "data_wait_seconds": ports.data_wait,
            "bytes": sum(port.bytes for port in ports.senders),
            "rows": stage.rows,
            "gated": stage.gated,
            "gradient_norm": self.gradient_norm,
        }
        if torch.get_num_threads() == 1:  # with more, the model's other threads cannot be told from ours
            summary["outside_cpu_seconds"] = time.process_time() - self._cpu - loop.model_cpu
        if self._losses_held:  # only the top stage has a loss; the others report none
            losses = self._losses[: self._losses_held]
            summary |= {"loss": float(losses.mean()), "losses_held": self._losses_held}
            if stage.task == "classify":
                summary["correct"] = int(stage.correct)
            if self.each_loss:
                summary["losses"] = losses.tolist()
        return summary

    def _watch_coordinator(self) -> None:
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED)
        threading.Thread(target=self._die_with_coordinator, args=(monitor,), name="lifeline", daemon=True).start()

    def _die_with_coordinator(self, monitor: "zmq.Socket[bytes]") -> None:
        try:
            recv_monitor_message(monitor)
        except zmq.ContextTerminated:
            pass  # closed on purpose
        finally:
            monitor.close(0)
            self._alone.set()
        if self._leaving:
            return
        if self._speaks:
            complain(f"stage {self.stage} (pid {os.getpid()}): the coordinator is gone, so the stages here end too")
        exit_now(1)


def _zero(loop: "Loop") -> None:
    stage, ports = loop.stage, loop.ports
    loop.compute = loop.model_cpu = 0.0
    ports.inputs.waited = 0.0
    for receiver in ports.receivers:
        receiver.waited = 0.0
    for sender in ports.senders:
        sender.waited, sender.bytes = 0.0, 0
    stage.rows = stage.gated = 0
    stage.correct.zero_()
    if ports.targets:
        ports.targets.inlet.waited = 0.0
