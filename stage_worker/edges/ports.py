"""The ports of a stage in a worker: its frame and target intakes, and the ends of its edges."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import Packet
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.frame_intake import FrameIntake, TargetIntake


@dataclass
class EdgePorts:
    """Implements the `Ports` of common/rule/tick.py with the worker's edges.

    Stage 0 has `frames`, the others `inputs` and `gradients_out`. The top stage may have `targets`, the others have
    `outputs` and `gradients_in`. The algorithms with exact gradients only use `frames` and `targets`.
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
        """The input x(k): the frame batch of this tick, or what the stage below sent one tick ago."""
        assert self._source is not None
        return self._source.receive(tick)

    def send_output(self, tick: int, held: Packet, y: Tensor) -> None:
        """Send y(k). The transfer overlaps with the backward pass."""
        assert self.outputs is not None
        self.outputs.send(tick, held, y)

    def receive_gradient(self, tick: int) -> Packet | None:
        """The gradient g(k), which the stage above sent one tick ago."""
        assert self.gradients_in is not None
        return self.gradients_in.receive(tick)

    def target(self, tick: int, held: Packet) -> Target | None:
        """The target of the frames that the top stage holds; None for tasks with labels."""
        return None if self.targets is None else self.targets.target(tick, held)

    def send_gradient(self, tick: int, source: Packet, r: Tensor) -> None:
        """Send r(k). The transfer overlaps with the update and the next forward pass."""
        assert self.gradients_out is not None
        self.gradients_out.send(tick, source, r)

    def settle(self, tick: int) -> None:
        """Wait until all sends of `tick` are done and all messages for the next tick have arrived."""
        for sender in self._senders:
            sender.settle(tick)
        for receiver in self._receivers:
            receiver.settle(tick + 1)

    def bytes_sent(self) -> tuple[int, int]:
        """Bytes sent forward and backward since `clear`."""
        forward, backward = (0 if port is None else port.bytes for port in (self.outputs, self.gradients_out))
        return forward, backward

    def clear(self) -> None:
        """Zero the byte counters."""
        for sender in self._senders:
            sender.bytes = 0
