"""What a stage worker's stage is connected to: its frames and targets, and the ends of its edges."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import Packet
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.frame_intake import FrameIntake, TargetIntake


@dataclass
class EdgePorts:
    """The ports of common/rule/tick.py, over the worker's edges.

    Stage 0 has `frames`, the others `inputs` and `gradients_out`; the top stage may have `targets`, the others have
    `outputs` and `gradients_in`. With exact gradients there are frames and targets alone.
    """

    device: torch.device
    frames: FrameIntake | None = None
    targets: TargetIntake | None = None
    inputs: Receiver | None = None
    outputs: Sender | None = None
    gradients_in: Receiver | None = None
    gradients_out: Sender | None = None

    def __post_init__(self) -> None:
        self._source = self.frames or self.inputs
        self._senders = [port for port in (self.outputs, self.gradients_out) if port is not None]
        self._receivers = [port for port in (self.inputs, self.gradients_in) if port is not None]

    def receive_input(self, tick: int) -> Packet | None:
        """x(k): the frame batch of this tick, or what the stage below sent a tick ago."""
        assert self._source is not None
        return self._source.receive(tick)

    def send_output(self, tick: int, held: Packet, y: Tensor) -> None:
        """y(k), which leaves while the backward pass runs."""
        assert self.outputs is not None
        self.outputs.send(tick, held, y)

    def receive_gradient(self, tick: int) -> Packet | None:
        """g(k): what the stage above sent a tick ago."""
        assert self.gradients_in is not None
        return self.gradients_in.receive(tick)

    def target(self, tick: int, held: Packet) -> Target | None:
        """The frame-sized target of what the top stage holds, where the task has such targets."""
        return None if self.targets is None else self.targets.target(tick, held)

    def send_gradient(self, tick: int, source: Packet, r: Tensor) -> None:
        """r(k), which leaves while the update and the next forward pass run."""
        assert self.gradients_out is not None
        self.gradients_out.send(tick, source, r)

    def settle(self, tick: int) -> None:
        """Wait until nothing of `tick` is in flight: every send has left, every message for the next tick is in."""
        for sender in self._senders:
            sender.settle(tick)
        for receiver in self._receivers:
            receiver.settle(tick + 1)

    def bytes_sent(self) -> tuple[int, int]:
        """Forward and backward since `clear`."""
        forward, backward = (0 if port is None else port.bytes for port in (self.outputs, self.gradients_out))
        return forward, backward

    def clear(self) -> None:
        """Zero the counters."""
        for sender in self._senders:
            sender.bytes = 0
