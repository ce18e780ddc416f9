"""Receives frames and targets from what feeds this replica: the coordinator, or a reader.

They arrive as pixels over ZeroMQ, or in shared memory if the feeder is on the same host (then only the first envelope
of a phase comes over ZeroMQ). On the stage's device their colours are jittered, if the decoders left that to it, and
they are normalised. With readers an evaluation's come from the coordinator, over ZeroMQ. `FrameIntake` feeds stage 0.
`TargetIntake` feeds the top stage with frame-sized targets, which arrive before the frame that they belong to, by as
many ticks as it takes to the top, and wait in the socket's queue.

    consumes   an envelope and raw frames, pushed by the feeder
    produces   a packet, or a target tensor, on the stage's device
    waits for  the feeder's next batch, at most the deadline
"""

import warnings
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
import zmq
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Network
from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, OtherAttemptError
from common.messages.frame_envelope import SMALLEST_BUFFER, Envelope
from common.processes.membership import Membership
from common.rule.colour_jitter import ColourJitter
from common.rule.host_values import HostValues
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from common.shared_memory.shared_frames import FrameReceiver, Place
from common.telemetry.spans import Kind, WorkClock, clock
from stage_worker.device_pace import AHEAD

# an envelope, the sizes in bytes of all parts of its message, and the parts after the envelope
Received = tuple[Envelope, list[int], list[zmq.Frame]]


class FrameSocket:
    """A listening PULL socket that receives and validates frame batches.

    Attributes:
        address: ZeroMQ endpoint of the socket.
        memory: name of the shared-memory listener; empty if there is none.
    """

    def __init__(
        self,
        me: Membership,
        network: Network,
        shape: Sequence[int],
        queue: int,
        what: str,
        shares_memory: bool = False,
        pinned: bool = False,
        work: WorkClock | None = None,
        wait: Kind = Kind.WAIT_FRAMES,
        pixel_type: str = "uint8",
        labels: LabelForm = ONE_CLASS,
    ) -> None:
        """Listen for the feeder.

        Args:
            shape: of a batch, [slots, channels, height, width].
            queue: maximum number of batches in the socket's queue.
            what: name of the receiver, for error messages.
            shares_memory: whether the feeder may pass frames in shared memory.
            pinned: a GPU reads the shared memory.
            pixel_type: of the frames, uint8 or uint16.
            work, wait: the time spent waiting for a batch is added to `work` as `wait`.
            labels: form of the rows' labels.
        """
        self._labels, self._feeder = labels, me.feeder_text
        self._work, self._wait = work or WorkClock(), int(wait)
        self._shape, self._what, self._deadline, self._attempt = tuple(shape), what, network.deadline, me.attempt
        self._type: torch.dtype = getattr(torch, pixel_type)
        self._size = torch.Size(shape).numel() * self._type.itemsize
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, network.max_message)
        self._socket.setsockopt(zmq.RCVTIMEO, int(network.deadline * 1000))
        self._socket.setsockopt(zmq.RCVBUF, max(self._size, SMALLEST_BUFFER))  # else the kernel buffers megabytes more
        # torch warns that a message's memory is read-only; it is only read
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        self.address = me.listen(self._socket)
        self._shared: FrameReceiver | None = None
        if shares_memory:
            self._shared = FrameReceiver(
                self._shape, network.deadline, pinned, self._type, self._feeder, network.max_message
            )
        self.memory = self._shared.name if self._shared else ""
        self._sharing: set[int] = set()  # the phases whose frames lie in shared memory

    def receive(self, tick: int, phase: int = 0) -> tuple[Envelope, Tensor]:
        """The next batch of a phase, read-only, valid until `release`, and its envelope. Raises PeerError."""
        start = clock()
        shared = self._shared if phase in self._sharing else None
        while (received := self._receive() if shared is None else self._receive_shared(shared, tick)) is None:
            if clock() - start >= self._deadline * 1e9:
                raise PeerError(
                    f"{self._what}, tick {tick}: no frames from {self._feeder} for {self._deadline:g} s: is the "
                    f"video on a slow disk or stream? Raise network.deadline if such waits are expected"
                )
        self._work.add(self._wait, start)
        envelope, sizes, payload = received
        place = envelope.place if self._shared else None
        if sizes[1:] != ([] if place else [self._size]):
            raise PeerError(
                f"{self._what}, tick {tick}: received message parts of {sizes} bytes, expected an envelope and a frame "
                f"batch {list(self._shape)} of {self._size} bytes: {OTHER_SENDER}"
            )
        if self._shared is not None and place is not None:
            self._sharing.add(envelope.phase)
            return envelope, self._frames_at(place, self._shared, tick)
        return envelope, torch.frombuffer(payload[0].buffer, dtype=self._type).view(self._shape)

    def release(self, envelope: Envelope) -> None:
        """Let the feeder reuse the memory of a batch. Raises PeerError if the feeder is gone."""
        if envelope.place is not None and self._shared is not None:
            try:
                self._shared.release()
            except PeerError as error:
                raise PeerError(f"{self._what}, frame {envelope.frame}: {error}") from error

    def _receive_shared(self, shared: FrameReceiver, tick: int) -> Received | None:
        """The next envelope of frames in shared memory; None if none came within the deadline."""
        try:
            message = shared.receive()
        except BlockingIOError:
            return None
        except PeerError as error:
            raise PeerError(f"{self._what}, tick {tick}: {error}") from error
        return Envelope(message, self._shape[0], self._attempt, self._labels), [len(message)], []

    def _frames_at(self, place: Place, shared: FrameReceiver, tick: int) -> Tensor:
        try:
            return shared.frames(place)
        except PeerError as error:
            raise PeerError(f"{self._what}, tick {tick}: {error}") from error

    def _receive(self) -> Received | None:
        """The next message over ZeroMQ.

        None if no message came within the deadline, or one of another attempt's coordinator.
        """
        try:
            first = self._socket.recv()
            others = self._socket.recv_multipart(copy=False) if self._socket.getsockopt(zmq.RCVMORE) else []
            return Envelope(first, self._shape[0], self._attempt, self._labels), [len(first), *map(len, others)], others
        except (zmq.Again, OtherAttemptError):
            return None
        except zmq.ContextTerminated:
            raise PeerError(f"{self._what}: the coordinator is gone") from None

    @staticmethod
    def end_waits() -> None:
        """Let every wait for frames in this process raise PeerError from now on. Blocks: call it in another thread."""
        zmq.Context.instance().term()

    def lost(self, tick: int, envelope: Envelope, expected: tuple[int, int]) -> PeerError:
        """The error for a batch that is not the expected one. `expected`: its phase and frame."""
        return PeerError(
            f"{self._what}, tick {tick}: received frame {envelope.frame} of phase {envelope.phase}, expected frame "
            f"{expected[1]} of phase {expected[0]}: a message was lost, so restart the run"
        )

    def close(self) -> None:
        """Stop listening."""
        self._socket.close(0)
        if self._shared is not None:
            self._shared.close()


Raw = tuple[Tensor, NDArray[np.int64]]  # frames as received, and their clips


class FrameIntake:
    """Stage 0's source of inputs."""

    def __init__(self, socket: FrameSocket, packet: Packet, normalise: Normaliser) -> None:
        """`packet` is overwritten at every tick."""
        self.phase = 0
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


class TargetIntake:
    """The top stage's source of frame-sized targets, matched by frame number.

    When training pauses, some frames have not reached the top stage yet. Their targets are kept in `early`.

    Attributes:
        early: targets whose frames the top stage does not hold yet, by phase and frame.
    """

    def __init__(self, socket: FrameSocket, out: Tensor, normalise: Normaliser) -> None:
        """`out` is overwritten at every tick."""
        self.phase = 0
        self.socket = socket
        self.early: dict[tuple[int, int], Raw] = {}
        self._out, self._normalise = out, normalise
        self._upload = FrameUpload(out.device)

    def target(self, tick: int, held: Packet) -> Target:
        """The normalised target of the frames in `held`. Within a phase, targets must arrive in frame order."""
        expected = self.phase, held.frame
        raw = self.early.pop(expected, None)
        while raw is None:
            key, received = self._receive(tick, self.phase, held.frame, held.frame)
            if key == expected:
                raw = received
            else:
                self.early[key] = received
        frames, clips = raw
        self._normalise(self._out, self._upload(frames))
        return Target(self._out, clips)

    def gather(self, first: int, end: int, tick: int) -> None:
        """Receive the targets of training frames first … end - 1, all of which have been sent, into `early`."""
        while any((0, frame) not in self.early for frame in range(first, end)):
            key, received = self._receive(tick, 0, first, end - 1)
            self.early[key] = received

    def _receive(self, tick: int, phase: int, first: int, last: int) -> tuple[tuple[int, int], Raw]:
        """The next target; one of this phase must be of the frames `first` … `last`, and not have come before."""
        envelope, frames = self.socket.receive(tick)
        key = envelope.phase, envelope.frame
        if key in self.early or (key[0] == phase and not first <= key[1] <= last):
            raise self.socket.lost(tick, envelope, (phase, last))
        return key, (frames, envelope.clips)
