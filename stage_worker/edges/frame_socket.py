"""The socket on which stage 0 receives frames, and the top stage targets: over ZeroMQ, or in shared memory.

If the feeder is on the same host, only the first envelope of a phase comes over ZeroMQ. With readers the frames of an
evaluation come from the coordinator, over ZeroMQ.
"""

import warnings
from collections.abc import Sequence

import torch
import zmq
from torch import Tensor

from common.config.settings import Network
from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, OtherAttemptError
from common.messages.frame_envelope import SMALLEST_BUFFER, TRAINING, Envelope
from common.processes.membership import Membership
from common.rule.label_form import ONE_CLASS, LabelForm
from common.shared_memory.shared_frames import BatchLocation, FrameReceiver
from common.telemetry.spans import Kind, WorkClock, clock

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

    def receive(self, tick: int, phase: int = TRAINING) -> tuple[Envelope, Tensor]:
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

    def _frames_at(self, place: BatchLocation, shared: FrameReceiver, tick: int) -> Tensor:
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
