"""The ports of a stage in a worker: its frame and target intakes, and the ends of its edges."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import NO_CLIP, Packet
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.frame_intake import FrameIntake
from stage_worker.edges.target_intake import TargetIntake

_ENDED = NO_CLIP - 1  # the clip of no row


@dataclass
class EdgePorts:
    """Implements the `Ports` of common/rule/tick.py with the worker's edges.

    Stage 0 has `frames`, the others `inputs` and `gradients_out`. The top stage may have `targets`, the others have
    `outputs` and `gradients_in`. The algorithms with exact gradients only use `frames` and `targets`.

    Attributes:
        skips_in, skip_gradients_out: of the skips to this stage, in the order of their sources.
        skips_out, skip_gradients_in: of the skips from this stage, in the order of their targets.
    """

    device: torch.device
    frames: FrameIntake | None = None
    targets: TargetIntake | None = None
    inputs: Receiver | None = None
    outputs: Sender | None = None
    gradients_in: Receiver | None = None
    gradients_out: Sender | None = None
    skips_in: Sequence[Receiver] = ()
    skips_out: Sequence[Sender] = ()
    skip_gradients_in: Sequence[Receiver] = ()
    skip_gradients_out: Sequence[Sender] = ()
    _skipped: list[Packet | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._source = self.frames or self.inputs
        self._forward = [port for port in (self.outputs, *self.skips_out) if port is not None]
        self._backward = [port for port in (self.gradients_out, *self.skip_gradients_out) if port is not None]
        receivers = self.inputs, self.gradients_in, *self.skips_in, *self.skip_gradients_in
        self._receivers = [port for port in receivers if port is not None]
        self._skipped = [None for _ in self.skips_in]

    def receive_input(self, tick: int) -> Packet | None:
        """The input x(k): the frame batch of this tick, or what the stage below sent."""
        assert self._source is not None
        return self._source.receive(tick)

    def send_output(self, tick: int, held: Packet, y: Tensor, pooled: Sequence[Tensor]) -> None:
        """Send y(k). The transfer overlaps with the backward pass."""
        assert self.outputs is not None
        self.outputs.send(tick, held, y)
        for sender, part in zip(self.skips_out, pooled, strict=True):
            sender.send(tick, held, part)

    def receive_gradient(self, tick: int) -> Packet | None:
        """The gradient g(k), which the stage above sent."""
        assert self.gradients_in is not None
        return self.gradients_in.receive(tick)

    def target(self, tick: int, held: Packet) -> Target | None:
        """The target of the frames that the top stage holds; None for tasks with labels."""
        return None if self.targets is None else self.targets.target(tick, held)

    def send_gradient(self, tick: int, source: Packet, r: Tensor, skipped: Sequence[Tensor]) -> None:
        """Send r(k). The transfer overlaps with the update and the next forward pass."""
        assert self.gradients_out is not None
        self.gradients_out.send(tick, source, r)
        for sender, gradient in zip(self.skip_gradients_out, skipped, strict=True):
            sender.send(tick, source, gradient)

    def receive_skips(self, tick: int) -> Sequence[Packet]:
        """What the skips to this stage bring; empty before the first frame reaches it."""
        for number, receiver in enumerate(self.skips_in):
            before = self._skipped[number]
            if before is not None and before.last:
                before.clips.fill(_ENDED)  # an evaluation ends in the source before it ends here
            else:
                self._skipped[number] = receiver.receive(tick)
        return [packet for packet in self._skipped if packet is not None] if self._skipped else ()

    def receive_skip_gradients(self, tick: int) -> Sequence[Packet]:
        """What the targets of this stage's skips send back."""
        if not self.skip_gradients_in:
            return ()
        packets = [receiver.receive(tick) for receiver in self.skip_gradients_in]
        return [packet for packet in packets if packet is not None]

    def settle(self, tick: int) -> None:
        """Wait until all sends of `tick` are done and all messages for the next tick have arrived."""
        for sender in (*self._forward, *self._backward):
            sender.settle(tick)
        for receiver in self._receivers:
            receiver.settle(tick + 1)

    def bytes_sent(self) -> tuple[int, int]:
        """Bytes sent forward and backward since `clear`."""
        return sum(sender.bytes for sender in self._forward), sum(sender.bytes for sender in self._backward)

    def clear(self) -> None:
        """Zero the byte counters."""
        for sender in (*self._forward, *self._backward):
            sender.bytes = 0
