"""Feeds the pipeline: one batch per tick to stage 0, and frame-sized targets to the top stage.

consumes   batches that the slots have decoded ahead
produces   (msgpack envelope, raw frames) over ZeroMQ PUSH; if stage 0 is on this host, the envelope alone over a
           Unix socket, with the frames in shared memory, where the decoders wrote them if they did
waits for  room in the socket's queue, or for stage 0 to release earlier batches; unblocked by stage 0's ticks, so a
           slow pipeline slows decoding down
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import zmq

from common.errors import PeerError
from common.messages.frame_envelope import SMALLEST_BUFFER, encode_frames
from common.messages.stage_calls import Addresses
from common.processes.membership import Membership
from common.processes.names import worker_text
from common.shared_memory.shared_frames import BatchLocation, FrameSender
from coordinator.video.batch import Batch
from coordinator.video.targets import Step

_T = TypeVar("_T")

_QUEUE = 4  # batches queued on this side
_RETRY_MS = 200
_REPORT_WAIT = 2.0  # seconds to wait for the error report of a stage that has disconnected


class Feeder:
    """Pushes batches to one replica, and calls `on_wait` about every 0.2 s while it waits for room.

    Attributes:
        frame_bytes, target_bytes: bytes sent so far.
    """

    def __init__(
        self,
        me: Membership,
        addresses: list[Addresses],
        batch_bytes: int,
        deadline: float,
        on_wait: Callable[[], None],
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Connect to the stages that receive frames and targets.

        Args:
            addresses: those of all stages, in order.
            batch_bytes: size of a batch's frames in bytes.
            deadline: seconds to wait for room for a batch.
            on_wait: called while waiting; may raise.
            warn: called with the reason if memory cannot be shared with stage 0.
        """
        self.frame_bytes = self.target_bytes = 0
        self._deadline, self._on_wait, self._attempt = deadline, on_wait, me.attempt
        self._stage_0 = worker_text(me.of_replica * me.stages, me.stages, me.replicas)
        self._frames = _connect(me, addresses[0].frames, 0, batch_bytes)
        self._shared = _share(addresses[0].memory, batch_bytes, deadline, warn)
        self._sharing: set[int] = set()  # the phases of which stage 0 knows that it shares this memory
        self._targets = _connect(me, addresses[-1].targets, -1, batch_bytes) if addresses[-1].targets else None

    def push(self, phase: int, frame: int, step: Step) -> None:
        """Send a tick's frames, and its targets if the top stage needs them.

        Raises:
            PeerError: stage 0 or the top stage accepts nothing within the deadline, or stage 0 has exited.
        """
        error_text = f"{self._stage_0} has accepted no frame since frame {frame - 1}"
        if self._shared is None:
            message = self._message(phase, frame, step.last, step.batch, None)
            self._retry(partial(_send, self._frames, message), error_text)
        else:
            self._push_shared(self._shared, phase, frame, step, error_text)
        self.frame_bytes += step.batch.frames.nbytes
        if self._targets is not None:
            error_text = f"the top stage has accepted no target since frame {frame - 1}"
            message = self._message(phase, frame, step.last, step.target, None)
            self._retry(partial(_send, self._targets, message), error_text)
            self.target_bytes += step.target.frames.nbytes

    def close(self) -> None:
        """Close the connections and drop what is still queued."""
        for socket in (self._frames, self._targets):
            if socket is not None:
                socket.close(0)
        if self._shared is not None:
            self._shared.close()

    def _message(self, phase: int, frame: int, last: bool, batch: Batch, place: BatchLocation | None) -> Sequence[Any]:
        rows = batch.clips, batch.labels, place, batch.form, batch.colours
        envelope = encode_frames(self._attempt, phase, frame, last, *rows)
        return [envelope, batch.frames] if place is None else [envelope]

    def _push_shared(self, shared: FrameSender, phase: int, frame: int, step: Step, error_text: str) -> None:
        batch = step.batch
        place = self._retry(partial(self._unless_lost, shared.place, batch.frames, batch.memory), error_text)
        message = self._message(phase, frame, step.last, batch, place)
        if phase in self._sharing:
            shared.put(*message)
            self._retry(partial(self._unless_lost, shared.flush), error_text)
        else:
            self._sharing.add(phase)
            self._retry(partial(_send, self._frames, message), error_text)

    def _unless_lost(self, send: Callable[..., _T], *arguments: Any) -> _T:
        """Call `send`. If stage 0 is gone, give `on_wait` time to raise the error that it may have reported."""
        try:
            return send(*arguments)
        except PeerError:
            end = time.monotonic() + _REPORT_WAIT
            while time.monotonic() < end:
                self._on_wait()
                time.sleep(0.02)
            raise

    def _retry(self, attempt: Callable[[], _T | None], error_text: str) -> _T:
        """Repeat `attempt` until it succeeds. Raises PeerError after the deadline."""
        start = time.monotonic()
        while (result := attempt()) is None:
            self._on_wait()
            if time.monotonic() - start > self._deadline:
                raise PeerError(f"{error_text} for {self._deadline:g} s: see the stages' own messages")
        return result


class Feeders:
    """A feeder for each replica, which gets its share of the rows."""

    def __init__(self, feeders: list[Feeder]) -> None:
        """One for each replica, in their order."""
        self._feeders = feeders

    def push(self, phase: int, frame: int, step: Step) -> None:
        """Send a tick's frames to every replica. Raises PeerError as `Feeder.push` does."""
        if len(self._feeders) == 1:
            self._feeders[0].push(phase, frame, step)
            return
        for number, feeder in enumerate(self._feeders):
            feeder.push(phase, frame, step.share(number, len(self._feeders)))

    @property
    def frame_bytes(self) -> int:
        """Bytes of frames sent so far."""
        return sum(feeder.frame_bytes for feeder in self._feeders)

    @property
    def target_bytes(self) -> int:
        """Bytes of targets sent so far."""
        return sum(feeder.target_bytes for feeder in self._feeders)

    def close(self) -> None:
        """Close the connections and drop what is still queued."""
        for feeder in self._feeders:
            feeder.close()


def _share(listener: str, size: int, deadline: float, warn: Callable[[str], None]) -> FrameSender | None:
    """Shared memory for frames; None if stage 0 offers no listener for it or cannot be reached through it."""
    try:
        return FrameSender(listener, size, deadline, _RETRY_MS / 1000) if listener else None
    except PeerError as error:
        warn(f"frames are sent over TCP, because memory cannot be shared with stage 0: {error}")
        return None


def _send(socket: "zmq.Socket[bytes]", parts: Sequence[Any]) -> int | None:
    """Send a message. Returns its number of parts, or None if there is no room."""
    try:
        socket.send_multipart(parts)  # copies, so the batch can be reused
    except zmq.Again:
        return None
    return len(parts)


def _connect(me: Membership, address: str, stage: int, batch_bytes: int) -> "zmq.Socket[bytes]":
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, _QUEUE)
    socket.setsockopt(zmq.SNDTIMEO, _RETRY_MS)
    # else the kernel queues megabytes more, which must be processed before the run can stop
    socket.setsockopt(zmq.SNDBUF, max(batch_bytes, SMALLEST_BUFFER))
    me.connect(socket, address, to=me.stage_member(stage))
    return socket
