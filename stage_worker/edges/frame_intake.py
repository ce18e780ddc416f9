"""Where frames enter the pipeline: uint8 over ZeroMQ, or in memory that its messages point to where the coordinator is
on the same host; bounded, checked, normalised into the stage's input buffer.

FrameIntake feeds stage 0. TargetIntake feeds the top stage with frame-sized targets: they arrive D - 1 ticks before
the top holds their frame and wait, as uint8, in the socket's queue.

    consumes  (envelope, raw frames) that the coordinator pushes
    waits for the coordinator's next batch; unblocked by its reader; gives up after the deadline
    produces  a packet, or a target tensor, on the stage's device
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import zmq
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Network
from common.errors import PeerError
from common.messages.encoding import OtherAttemptError
from common.messages.frame_envelope import SMALLEST_BUFFER, Envelope
from common.processes.membership import Membership
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.pixels import normalise
from common.shared_memory.frame_slots import FrameSlotReader
from common.telemetry.spans import Kind, WorkClock, clock


class FrameSocket:
    """A listening PULL socket that yields checked batches of frames.

    Attributes:
        address: where it listens.
        memory: the name of the listener for shared memory; empty where there is none.
    """

    def __init__(
        self,
        me: Membership,
        network: Network,
        shape: Sequence[int],
        queue: int,
        what: str,
        shares_memory: bool = False,
        work: WorkClock | None = None,
        wait: Kind = Kind.WAIT_FRAMES,
    ) -> None:
        """Listen for the coordinator.

        Args:
            shape: of a batch, [slots, channels, height, width].
            queue: batches that wait on this side at most.
            what: who receives here, for error messages.
            shares_memory: the coordinator is on this host, and may pass frames in shared memory.
            work, wait: time spent waiting for a batch is added to `work` as this kind.
        """
        self._work, self._wait = work or WorkClock(), int(wait)
        self._shape, self._what, self._deadline, self._attempt = tuple(shape), what, network.deadline, me.attempt
        self._size = torch.Size(shape).numel()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, network.max_message)
        self._socket.setsockopt(zmq.RCVTIMEO, int(network.deadline * 1000))
        self._socket.setsockopt(zmq.RCVBUF, max(self._size, SMALLEST_BUFFER))  # else the kernel queues megabytes more
        # the message is read-only, and only read
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        self.address = me.listen(self._socket)
        self._reader = FrameSlotReader(self._shape, network.deadline) if shares_memory else None
        self.memory = self._reader.name if self._reader else ""

    def receive(self, tick: int) -> tuple[Envelope, Tensor]:
        """The next batch and its envelope. The tensor is uint8, to be read alone, until `release`. Raises PeerError."""
        start = clock()
        while (received := self._receive()) is None:
            if clock() - start >= self._deadline * 1e9:
                raise PeerError(
                    f"{self._what}, tick {tick}: no frames from the coordinator for {self._deadline:g} s: is the "
                    f"reader stuck on a slow disk or stream? Raise network.deadline if that is expected"
                )
        self._work.add(self._wait, start)
        envelope, sizes, payload = received
        reader = self._reader if envelope.slot is not None else None
        if sizes[1:] != ([] if reader else [self._size]):
            raise PeerError(
                f"{self._what}, tick {tick}: a message of parts {sizes} bytes came where an envelope and a frame batch "
                f"{list(self._shape)} of {self._size} bytes were due: is something else sending here?"
            )
        if reader is not None and envelope.slot is not None:
            return envelope, reader.frames(envelope.slot)
        return envelope, torch.frombuffer(payload[0].buffer, dtype=torch.uint8).view(self._shape)

    def release(self, envelope: Envelope) -> None:
        """Its batch is not needed any more. Raises PeerError when the coordinator is gone."""
        if envelope.slot is not None and self._reader is not None:
            try:
                self._reader.release()
            except PeerError as error:
                raise PeerError(f"{self._what}, frame {envelope.frame}: {error}") from error

    def _receive(self) -> tuple[Envelope, list[int], list[zmq.Frame]] | None:
        """The next message: its envelope, the sizes of its parts, those behind the envelope.

        None if none came within the deadline, or one of an earlier attempt's coordinator.
        """
        try:
            first = self._socket.recv()
            others = self._socket.recv_multipart(copy=False) if self._socket.getsockopt(zmq.RCVMORE) else []
            return Envelope(first, self._shape[0], self._attempt), [len(first), *map(len, others)], others
        except (zmq.Again, OtherAttemptError):
            return None

    def lost(self, tick: int, envelope: Envelope, due: tuple[int, int]) -> PeerError:
        """The error for a batch that is not the one that was due: (phase, frame)."""
        return PeerError(
            f"{self._what}, tick {tick}: frame {envelope.frame} of phase {envelope.phase} came where frame "
            f"{due[1]} of phase {due[0]} was due: a message was lost, start the run again"
        )

    def close(self) -> None:
        """Stop listening."""
        self._socket.close(0)
        if self._reader is not None:
            self._reader.close()


Raw = tuple[Tensor, NDArray[np.int64]]  # uint8 frames as they came, and their clips


class FrameIntake:
    """Stage 0's source of inputs."""

    def __init__(self, socket: FrameSocket, packet: Packet, mean: float, std: float) -> None:
        """`packet` is overwritten at each tick."""
        self.phase = 0
        self.socket = socket
        self._packet, self._mean, self._std = packet, mean, std

    def receive(self, tick: int) -> Packet:
        """The frame batch of this tick, normalised. Valid until the next receive."""
        envelope, frames = self.socket.receive(tick)
        if (envelope.phase, envelope.frame) != (self.phase, tick):
            raise self.socket.lost(tick, envelope, (self.phase, tick))
        packet = self._packet
        # on CUDA this copy waits for what was begun before, so nobody reads the old labels any more
        normalise(packet.tensor, frames.to(packet.tensor.device), self._mean, self._std)
        packet.set_header(tick - 1, envelope.frame, envelope.last)
        packet.clips[:] = envelope.clips
        packet.labels[:] = envelope.labels
        self.socket.release(envelope)
        return packet


class TargetIntake:
    """The top stage's source of frame-sized targets, matched by frame number.

    When training pauses, up to D - 1 of its frames are still climbing: their targets are set aside.
    """

    def __init__(self, socket: FrameSocket, out: Tensor, mean: float, std: float) -> None:
        """`out` is overwritten at each tick."""
        self.phase = 0
        self.socket = socket
        self.aside: dict[tuple[int, int], Raw] = {}
        self._out, self._mean, self._std = out, mean, std

    def target(self, tick: int, held: Packet) -> Target:
        """The target of the frame that the top stage holds, normalised. Within a phase frames come in order."""
        due = self.phase, held.frame
        raw = self.aside.pop(due, None)
        while raw is None:
            key, arrived = self._take(tick, due)
            if key == due:
                raw = arrived
            else:
                self.aside[key] = arrived
        frames, clips = raw
        normalise(self._out, frames.to(self._out.device), self._mean, self._std)
        return Target(self._out, clips)

    def gather(self, first: int, end: int, tick: int) -> None:
        """Set the targets of training frames first … end - 1 aside: all have been sent, their frames are climbing."""
        while any((0, frame) not in self.aside for frame in range(first, end)):
            key, arrived = self._take(tick, (0, end - 1))
            self.aside[key] = arrived

    def _take(self, tick: int, due: tuple[int, int]) -> tuple[tuple[int, int], Raw]:
        envelope, arrived = self.socket.receive(tick)
        key = envelope.phase, envelope.frame
        if key[0] == due[0] and key[1] > due[1]:
            raise self.socket.lost(tick, envelope, due)
        return key, (arrived, envelope.clips)
