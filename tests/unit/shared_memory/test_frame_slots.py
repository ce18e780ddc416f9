"""Frames in memory that coordinator and stage 0 share: nothing is overwritten too early, nobody waits for ever."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.frame_envelope import Envelope, encode_frames
from common.messages.stage_calls import Addresses
from common.shared_memory.frame_slots import SLOTS
from coordinator.video.feeder import Feeder
from coordinator.video.targets import Batch, Step
from stage_worker.edges.frame_intake import FrameSocket

SHAPE = (2, 3, 4, 4)


@contextmanager
def connected(deadline: float = 5.0) -> Iterator[tuple[Feeder, FrameSocket]]:
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, deadline, "stage 0", attempt=8, shares_memory=True)
    feeder = Feeder(
        [Addresses(frame_socket.address, "", memory=frame_socket.memory)], 96, deadline, lambda: None, attempt=8
    )
    yield feeder, frame_socket
    feeder.close()
    frame_socket.close()


def push(feeder: Feeder, frame: int) -> None:
    """A batch whose pixels tell its number, and which is used for something else at once."""
    batch = Batch(SHAPE)
    batch.frames[:] = frame
    feeder.push(0, frame, Step(batch, batch, last=False))
    batch.frames[:] = 255


def take(frame_socket: FrameSocket, frame: int) -> Envelope:
    envelope, frames = frame_socket.receive(frame)
    assert (envelope.frame, tuple(frames.shape)) == (frame, SHAPE)
    assert (frames == frame).all()
    return envelope


@settings(max_examples=25)
@given(st.lists(st.booleans(), max_size=60))
def test_every_batch_arrives_as_it_was_however_far_one_side_is_ahead(turns: list[bool]) -> None:
    """True: the coordinator sends one, if it may without waiting; False: the stage takes one, if there is any."""
    with connected() as (feeder, frame_socket):
        sent, waiting = 0, deque[int]()
        for sends in turns:
            if sends and len(waiting) < SLOTS:
                push(feeder, sent)
                waiting.append(sent)
                sent += 1
            elif not sends and waiting:
                envelope = take(frame_socket, waiting.popleft())
                assert envelope.slot is not None
                frame_socket.release(envelope)


def test_a_batch_that_is_not_done_with_is_not_overwritten() -> None:
    with connected(deadline=3.0) as (feeder, frame_socket):
        for frame in range(SLOTS):
            push(feeder, frame)
        envelope, frames = frame_socket.receive(0)
        with pytest.raises(PeerError, match=f"stage 0 has taken no frame since frame {SLOTS - 1} for 3 s"):
            push(feeder, SLOTS)
        assert (frames == 0).all()
        frame_socket.release(envelope)
        push(feeder, SLOTS)
        for frame in range(1, SLOTS + 1):
            frame_socket.release(take(frame_socket, frame))


def test_a_stage_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, frame_socket):
        for frame in range(SLOTS):
            push(feeder, frame)
        take(frame_socket, 0)
        assert frame_socket._reader is not None
        frame_socket._reader.close()
        with pytest.raises(PeerError, match="stage 0 has gone"):
            push(feeder, SLOTS)


def test_a_stage_that_has_gone_is_asked_for_its_own_words_first() -> None:
    """A neighbour of its may have failed, and stage 0 with it."""
    calls = iter(range(5))

    def look() -> None:
        if next(calls) == 4:
            raise PeerError("stage 1 has failed, and this is why")

    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", attempt=8, shares_memory=True)
    feeder = Feeder([Addresses(frame_socket.address, "", memory=frame_socket.memory)], 96, 60, look, attempt=8)
    for frame in range(SLOTS):
        push(feeder, frame)
    take(frame_socket, 0)
    frame_socket.close()
    with pytest.raises(PeerError, match="stage 1 has failed"):
        push(feeder, SLOTS)
    feeder.close()


def test_a_slot_that_does_not_exist_is_refused() -> None:
    with connected(deadline=60) as (_, frame_socket):
        assert frame_socket._reader is not None
        with pytest.raises(PeerError, match=f"slot {SLOTS} of {SLOTS}"):
            frame_socket._reader.frames(SLOTS)


def test_a_coordinator_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, frame_socket):
        push(feeder, 0)
        envelope = take(frame_socket, 0)
        feeder.close()
        with pytest.raises(PeerError, match="stage 0, frame 0: the coordinator has gone"):
            frame_socket.release(envelope)


def test_where_memory_cannot_be_shared_frames_are_sent() -> None:
    frame_socket, warnings = (
        FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", attempt=8, shares_memory=True),
        list[str](),
    )
    address = Addresses(frame_socket.address, "", memory="sideways-nobody")
    feeder = Feeder([address], 96, 5.0, lambda: None, attempt=8, warn=warnings.append)
    assert "frames are sent over TCP" in warnings[0]
    for frame in range(3 * SLOTS):
        push(feeder, frame)
        envelope = take(frame_socket, frame)
        assert envelope.slot is None
        frame_socket.release(envelope)
    feeder.close()
    frame_socket.close()


def test_a_stranger_s_slot_is_of_no_use() -> None:
    """It names a slot, and no coordinator has shared any memory."""
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 3.0, "stage 0", attempt=8, shares_memory=True)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(frame_socket.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match="the coordinator, on this host, does not connect"):
            frame_socket.receive(3)
    frame_socket.close()


def test_a_slot_and_frames_are_not_both_taken() -> None:
    with connected() as (_, frame_socket), zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        none = np.zeros(2, np.int64)
        stranger.connect(frame_socket.address)
        stranger.send_multipart([encode_frames(8, 0, 3, False, none, none, slot=1), bytes(96)])
        with pytest.raises(PeerError, match=r"a message of parts \[\d+, 96\] bytes came"):
            frame_socket.receive(3)


def test_where_nothing_is_shared_a_slot_is_refused() -> None:
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", attempt=8)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(frame_socket.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match=r"a message of parts \[\d+\] bytes came where .* of 96 bytes were due"):
            frame_socket.receive(3)
    frame_socket.close()
