"""The tick loop of a stage worker.

    consumes   x: the packet that the stage below made one tick ago (stage 0: the coordinator's next frame batch)
               g: the gradient packet that the stage above made one tick ago (top stage: its own loss)
    produces   y for the stage above, which leaves while the backward pass runs
               r for the stage below, which leaves while the update and the next forward pass run
    waits for  its neighbours' previous tick, never for more: a stage runs at most one tick ahead of the next

Nothing is stored between ticks but the packets on the edges.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from common.rule.packet import Packet
from common.rule.stage import Stage
from stage_worker.edges.ends import Receiver, Sender, Source
from stage_worker.edges.frame_intake import FrameIntake, TargetIntake
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter
from stage_worker.reporting.ticking import Times


@dataclass
class Ports:
    """What a stage is connected to. The first stage has no `gradients_out`, the top no `outputs` and `gradients_in`.

    With exact gradients there are frames and targets alone: `inputs` only in stage 0.
    """

    inputs: Source | None
    outputs: Sender | None
    gradients_in: Receiver | None
    gradients_out: Sender | None
    targets: TargetIntake | None
    device: torch.device

    def settle(self, tick: int) -> None:
        """Wait until nothing of `tick` is in flight: every send has left, every message for the next tick is in."""
        for sender in self.senders:
            sender.release()
        for sender in self.senders:
            sender.settle(tick)
        for receiver in self.receivers:
            receiver.settle(tick + 1)

    @property
    def data_wait(self) -> float:
        """Seconds spent waiting for the coordinator's frames and targets."""
        frames = self.inputs.waited if isinstance(self.inputs, FrameIntake) else 0.0
        return frames + (self.targets.socket.waited if self.targets else 0.0)

    def traffic(self) -> dict[str, int]:
        """Bytes sent since `clear`, both ways together and apart."""
        forward, backward = (port.bytes if port is not None else 0 for port in (self.outputs, self.gradients_out))
        return {"bytes": forward + backward, "bytes_forward": forward, "bytes_backward": backward}

    @cached_property
    def senders(self) -> list[Sender]:
        """The sending ends, of which a stage has up to two."""
        return [port for port in (self.outputs, self.gradients_out) if port is not None]

    @cached_property
    def receivers(self) -> list[Receiver]:
        """The receiving ends, of which a stage has up to two."""
        return [port for port in (self.inputs, self.gradients_in) if isinstance(port, Receiver)]

    def clear(self) -> None:
        """Zero the counters."""
        for port in (self.inputs, *self.receivers):
            if port is not None:
                port.waited = 0.0
        for sender in self.senders:
            sender.waited, sender.bytes = 0.0, 0
        if self.targets:
            self.targets.socket.waited = 0.0


class Loop:
    """Runs ticks first … last - 1; `last` may be moved while it runs."""

    def __init__(self, stage: Stage, ports: Ports, reporter: Reporter, overlap: bool) -> None:
        """Without `overlap` every tick ends by waiting for its transfers."""
        self.stage, self.ports, self.reporter, self.overlap = stage, ports, reporter, overlap
        self.last = 0
        self.probe = StageProbe()
        self.compute = 0.0  # seconds in the model since last zeroed
        self.model_cpu = 0.0  # of which this thread was on a CPU
        self._one_thread = torch.get_num_threads() == 1  # else the model's other threads cannot be told from ours

    def run(self, first: int) -> None:
        """Train from tick `first` until `self.last`."""
        tick = first
        self.reporter.begin(self)
        while tick < self.last:
            self.tick(tick)
            if not self.overlap:
                self.ports.settle(tick)
            self.reporter.ticked(tick, self)
            tick += 1
        self.ports.settle(tick - 1)
        self.reporter.flush(tick - 1, self)

    def tick(self, k: int) -> None:
        """One tick of the rule (DESIGN, section 1)."""
        stage, ports = self.stage, self.ports
        assert ports.inputs is not None
        x = ports.inputs.receive(k)
        if x is None:
            return  # the first frame has not climbed this far
        probed = self.probe.sees(x.frame)
        if probed:
            self.probe.before(stage, x)
        self._start()
        y = stage.forward(x)
        self._stop()
        if ports.outputs is None:
            r, source = self._top_backward(k, x), x
        else:
            assert ports.gradients_in is not None
            ports.outputs.send(k, x, y)
            g = ports.gradients_in.receive(k)
            if g is None:
                return  # the first gradient has not come down this far
            self._start()
            r, source = stage.backward(x, g), g
            self._stop()
        if probed:
            self.probe.after(stage, x)
        if ports.gradients_out is not None:
            assert r is not None, "the coordinator has checked that every block passes a gradient"
            ports.gradients_out.send(k, source, r)
        if self.reporter.due:
            self.reporter.gradient_norm = stage.updater.gradient_norm()
        self._start()
        stage.update()
        self._stop()

    def _top_backward(self, k: int, x: Packet) -> Tensor | None:
        target = self.ports.targets.target(x.frame, k) if self.ports.targets else None
        self._start()
        r = self.stage.backward_from_loss(x, target)
        self._stop()
        return r

    def _start(self) -> None:
        self.compute -= time.perf_counter()
        if self._one_thread:
            self.model_cpu -= time.thread_time()

    def _stop(self) -> None:
        self.compute += time.perf_counter()
        if self._one_thread:
            self.model_cpu += time.thread_time()

    # ---- figures for the reports

    def times(self) -> Times:
        """Seconds of compute, of waiting to receive, to send, and for data, since `clear`."""
        ports, received, sent = self.ports, 0.0, 0.0
        for receiver in ports.receivers:
            received += receiver.waited
        for sender in ports.senders:
            sent += sender.waited
        return self.compute, received, sent, ports.data_wait

    def summary(self) -> dict[str, Any]:
        """Seconds and bytes since `clear`."""
        compute, received, sent, data = self.times()
        return {
            "compute_seconds": compute,
            "receive_wait_seconds": received,
            "send_wait_seconds": sent,
            "data_wait_seconds": data,
            **self.ports.traffic(),
            "model_cpu_seconds": self.model_cpu if self._one_thread else None,
        }

    def clear(self) -> None:
        """Zero the counters."""
        self.compute = self.model_cpu = 0.0
        self.ports.clear()
