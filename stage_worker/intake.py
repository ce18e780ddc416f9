"""Where frames enter the pipeline: uint8 over ZeroMQ, or in memory that its messages point to where the coordinator is
on the same host; bounded, checked, normalised into the stage's input buffer.

FrameIntake feeds stage 0. TargetIntake feeds the top stage with frame-sized targets: they arrive D - 1 ticks before
the top holds their frame and wait, as uint8, in the socket's queue.

    consumes  (envelope, raw frames) that the coordinator pushes
    waits for the coordinator's next batch; unblocked by its reader; gives up after the deadline
    produces  a packet, or a target tensor, on the stage's device
"""

import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
import zmq
from numpy.typing import NDArray
from torch import Tensor

from common.curve import Curve
from common.errors import PeerError
from common.handover import Taker
from common.objective import Target
from common.packet import Packet, normalise
from common.wire import SMALLEST_BUFFER, Envelope, OtherAttemptError


class Inlet:
    """A listening PULL socket that yields checked batches of frames."""

    def __init__(
        self,
        host: str,
        queue: int,
        shape: Sequence[int],
        max_message: int,
        deadline: float,
        what: str,
        curve: Curve | None = None,
        epoch: int = 0,
        beside: bool = False,
    ) -> None:
        """Listen on `host`, by `curve` to the coordinator alone, and to that of this attempt, `epoch`.

        `queue` batches wait at most on this side; `shape` is [slots, channels, height, width]; `deadline` in s. The
        coordinator may hand frames over in memory where it is `beside`, on this host.
        """
        self.waited = 0.0
        self._shape, self._what, self._deadline, self._epoch = tuple(shape), what, deadline, epoch
        self._size = torch.Size(shape).numel()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_message)
        self._socket.setsockopt(zmq.RCVTIMEO, int(deadline * 1000))
        self._socket.setsockopt(zmq.RCVBUF, max(self._size, SMALLEST_BUFFER))  # else the kernel queues megabytes more
        # the message is read-only, and only read
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        if curve is not None:
            curve.listen(self._socket)
        port: int = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address = f"tcp://{host}:{port}"
        self._taker = Taker(self._shape, deadline) if beside else None
        self.memory = self._taker.name if self._taker else ""

    def take(self, tick: int) -> tuple[Envelope, Tensor]:
        """The next batch and its envelope. The tensor is uint8, to be read alone, until `done`. Raises PeerError."""
        start = time.perf_counter()
        while (received := self._receive()) is None:
            if time.perf_counter() - start >= self._deadline:
                raise PeerError(
                    f"{self._what}, tick {tick}: no frames from the coordinator for {self._deadline:g} s: is the "
                    f"reader stuck on a slow disk or stream? Raise network.deadline if that is expected"
                )
        self.waited += time.perf_counter() - start
        envelope, sizes, payload = received
        taker = self._taker if envelope.slot is not None else None
        if sizes[1:] != ([] if taker else [self._size]):
            raise PeerError(
                f"{self._what}, tick {tick}: a message of parts {sizes} bytes came where an envelope and a frame batch "
                f"{list(self._shape)} of {self._size} bytes were due: is something else sending here?"
            )
        if taker is not None and envelope.slot is not None:
            return envelope, taker.slot(envelope.slot)
        return envelope, torch.frombuffer(payload[0].buffer, dtype=torch.uint8).view(self._shape)

    def done(self, envelope: Envelope) -> None:
        """Its batch is not needed any more. Raises PeerError when the coordinator is gone."""
        if envelope.slot is not None and self._taker is not None:
            try:
                self._taker.done()
            except PeerError as error:
                raise PeerError(f"{self._what}, frame {envelope.frame}: {error}") from error

    def _receive(self) -> tuple[Envelope, list[int], list[zmq.Frame]] | None:
        """The next message: its envelope, the sizes of its parts, those behind the envelope.

        None if none came within the deadline, or one of an earlier attempt's coordinator.
        """
        try:
            first = self._socket.recv()
            others = self._socket.recv_multipart(copy=False) if self._socket.getsockopt(zmq.RCVMORE) else []
            return Envelope(first, self._shape[0], self._epoch), [len(first), *map(len, others)], others
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
        if self._taker is not None:
            self._taker.close()


Raw = tuple[Tensor, NDArray[np.int64]]  # uint8 frames as they came, and their clips


class FrameIntake:
    """Stage 0's source of inputs."""

    def __init__(self, inlet: Inlet, packet: Packet, mean: float, std: float) -> None:
        """`packet` is overwritten at each tick."""
        self.phase = 0
        self.inlet = inlet
        self._packet, self._mean, self._std = packet, mean, std

    @property
    def waited(self) -> float:
        """Seconds spent waiting, since last zeroed."""
        return self.inlet.waited

    @waited.setter
    def waited(self, seconds: float) -> None:
        self.inlet.waited = seconds

    def receive(self, tick: int) -> Packet:
        """The frame batch of this tick, normalised. Valid until the next receive."""
        envelope, frames = self.inlet.take(tick)
        if (envelope.phase, envelope.frame) != (self.phase, tick):
            raise self.inlet.lost(tick, envelope, (self.phase, tick))
        packet = self._packet
        # on CUDA this copy waits for what was begun before, so nobody reads the old labels any more
        normalise(packet.tensor, frames.to(packet.tensor.device), self._mean, self._std)
        packet.label(tick - 1, envelope.frame, envelope.last)
        packet.clips[:] = envelope.clips
        packet.labels[:] = envelope.labels
        self.inlet.done(envelope)
        return packet


class TargetIntake:
    """The top stage's source of frame-sized targets, matched by frame number.

    When training pauses, up to D - 1 of its frames are still climbing: their targets are set aside.
    """

    def __init__(self, inlet: Inlet, out: Tensor, mean: float, std: float) -> None:
        """`out` is overwritten at each tick."""
        self.phase = 0
        self.inlet = inlet
        self.aside: dict[tuple[int, int], Raw] = {}
        self._out, self._mean, self._std = out, mean, std

    def target(self, frame: int, tick: int) -> Target:
        """The target of a frame, normalised. Within a phase frames are asked for in order."""
        due = self.phase, frame
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
        envelope, arrived = self.inlet.take(tick)
        key = envelope.phase, envelope.frame
        if key[0] == due[0] and key[1] > due[1]:
            raise self.inlet.lost(tick, envelope, due)
        return key, (arrived, envelope.clips)
