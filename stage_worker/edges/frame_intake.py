"""Stage 0's frames, which come from what feeds this replica: the coordinator, or a reader.

On the stage's device their colours are jittered, if the decoders left that to it, and they are normalised.

    consumes   an envelope and raw frames, pushed by the feeder
    produces   a packet, on the stage's device
    waits for  the feeder's next batch, at most the deadline
"""

from collections import deque

import torch
from torch import Tensor

from common.messages.frame_envelope import TRAINING, Envelope
from common.rule.colour_jitter import ColourJitter
from common.rule.host_values import HostValues
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from stage_worker.device_pace import AHEAD
from stage_worker.edges.frame_socket import FrameSocket


class FrameIntake:
    """Stage 0's source of inputs."""

    def __init__(self, socket: FrameSocket, packet: Packet, normalise: Normaliser) -> None:
        """`packet` is overwritten at every tick."""
        self.phase = TRAINING
        self.socket = socket
        self._packet, self._normalise = packet, normalise
        self._upload, self._jitter = FrameUpload(packet.tensor.device), ColourJitter(packet.tensor.device)
        # a GPU reads a batch some ticks later than the host hands it over
        self._kept = 0 if packet.tensor.device.type == "cpu" else AHEAD
        self._unreleased: deque[Envelope] = deque()

    def receive(self, tick: int) -> Packet:
        """The frame batch of this tick, normalised. Valid until the next receive."""
        envelope, frames = self.socket.receive(tick, self.phase)
        if (envelope.phase, envelope.frame) != (self.phase, tick):
            raise self.socket.lost(tick, envelope, (self.phase, tick))
        packet = self._packet
        pixels = self._upload(frames)
        if envelope.colours is not None:
            pixels = self._jitter(pixels, envelope.colours)
        self._normalise(packet.tensor, pixels)
        packet.set_header(tick - 1, envelope.frame, envelope.last)
        packet.clips[:] = envelope.clips
        packet.labels[:] = envelope.labels
        self._unreleased.append(envelope)
        while len(self._unreleased) > self._kept:
            self.socket.release(self._unreleased.popleft())
        return packet


class FrameUpload:
    """Brings frames to a device without a wait."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._values = device, HostValues()

    def __call__(self, frames: Tensor) -> Tensor:
        """The frames on the device; on the CPU, themselves."""
        if self._device.type == "cpu":
            return frames
        if frames.is_pinned():
            return frames.to(self._device, non_blocking=True)
        return self._values.on(self._device, frames.numpy())
