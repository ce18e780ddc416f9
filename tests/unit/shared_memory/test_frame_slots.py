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
from common.shared_memory.frame_slots import SLOTS
from coordinator.video.feeder import Feeder
from coordinator.video.targets import Batch, Step
from stage_worker.edges.frame_intake import FrameSocket
from tests.support.frames import feeder_of, frame_socket

SHAPE = (2, 3, 4, 4)


@contextmanager
def connected(deadline: float = 5.0) -> Iterator[tuple[Feeder, FrameSocket]]:
    stage_0 = frame_socket(SHAPE, 8, deadline, shares_memory=True)
    feeder = feeder_of(stage_0, 8, deadline)
    yield feeder, stage_0
    feeder.close()
    stage_0.close()


def push(feeder: Feeder, frame: int) -> None:
    """A batch whose pixels tell its number, and which is used for something else at once."""
    batch = Batch(SHAPE)
    batch.frames[:] = frame
    feeder.push(0, frame, Step(batch, batch, last=False))
    batch.frames[:] = 255


def take(stage_0: FrameSocket, frame: int) -> Envelope:
    envelope, frames = stage_0.receive(frame)
    assert (envelope.frame, tuple(frames.shape)) == (frame, SHAPE)
    assert (frames == frame).all()
    return envelope


@settings(max_examples=25)
@given(st.lists(st.booleans(), max_size=60))
def test_every_batch_arrives_as_it_was_however_far_one_side_is_ahead(turns: list[bool]) -> None:
    """True: the coordinator sends one, if it may without waiting; False: the stage takes one, if there is any."""
    with connected() as (feeder, stage_0):
        sent, waiting = 0, deque[int]()
        for sends in turns:
            if sends and len(waiting) < SLOTS:
                push(feeder, sent)
                waiting.append(sent)
                sent += 1
            elif not sends and waiting:
                envelope = take(stage_0, waiting.popleft())
                assert envelope.slot is not None
                stage_0.release(envelope)


def test_a_batch_that_is_not_done_with_is_not_overwritten() -> None:
    with connected(deadline=3.0) as (feeder, stage_0):
        for frame in range(SLOTS):
            push(feeder, frame)
        envelope, frames = stage_0.receive(0)
        with pytest.raises(PeerError, match=f"stage 0 has taken no frame since frame {SLOTS - 1} for 3 s"):
            push(feeder, SLOTS)
        assert (frames == 0).all()
        stage_0.release(envelope)
        push(feeder, SLOTS)
        for frame in range(1, SLOTS + 1):
            stage_0.release(take(stage_0, frame))


def test_a_stage_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, stage_0):
        for frame in range(SLOTS):
            push(feeder, frame)
        take(stage_0, 0)
        assert stage_0._reader is not None
        stage_0._reader.close()
        with pytest.raises(PeerError, match="stage 0 has gone"):
            push(feeder, SLOTS)


def test_a_stage_that_has_gone_is_asked_for_its_own_words_first() -> None:
    """A neighbour of its may have failed, and stage 0 with it."""
    calls = iter(range(5))

    def look() -> None:
        if next(calls) == 4:
            raise PeerError("stage 1 has failed, and this is why")

    stage_0 = frame_socket(SHAPE, 8, shares_memory=True)
    feeder = feeder_of(stage_0, 8, 60, look)
    for frame in range(SLOTS):
        push(feeder, frame)
    take(stage_0, 0)
    stage_0.close()
    with pytest.raises(PeerError, match="stage 1 has failed"):
        push(feeder, SLOTS)
    feeder.close()


def test_a_slot_that_does_not_exist_is_refused() -> None:
    with connected(deadline=60) as (_, stage_0):
        assert stage_0._reader is not None
        with pytest.raises(PeerError, match=f"slot {SLOTS} of {SLOTS}"):
            stage_0._reader.frames(SLOTS)


def test_a_coordinator_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, stage_0):
        push(feeder, 0)
        envelope = take(stage_0, 0)
        feeder.close()
        with pytest.raises(PeerError, match="stage 0, frame 0: the coordinator has gone"):
            stage_0.release(envelope)


def test_where_memory_cannot_be_shared_frames_are_sent() -> None:
    stage_0, warnings = frame_socket(SHAPE, 8, shares_memory=True), list[str]()
    stage_0.memory = "sideways-nobody"
    feeder = feeder_of(stage_0, 8, 5.0, warn=warnings.append)
    assert "frames are sent over TCP" in warnings[0]
    for frame in range(3 * SLOTS):
        push(feeder, frame)
        envelope = take(stage_0, frame)
        assert envelope.slot is None
        stage_0.release(envelope)
    feeder.close()
    stage_0.close()


def test_a_stranger_s_slot_is_of_no_use() -> None:
    """It names a slot, and no coordinator has shared any memory."""
    stage_0 = frame_socket(SHAPE, 8, deadline=3.0, shares_memory=True)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(stage_0.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match="the coordinator, on this host, does not connect"):
            stage_0.receive(3)
    stage_0.close()


def test_a_slot_and_frames_are_not_both_taken() -> None:
    with connected() as (_, stage_0), zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        none = np.zeros(2, np.int64)
        stranger.connect(stage_0.address)
        stranger.send_multipart([encode_frames(8, 0, 3, False, none, none, slot=1), bytes(96)])
        with pytest.raises(PeerError, match=r"a message of parts \[\d+, 96\] bytes came"):
            stage_0.receive(3)


def test_where_nothing_is_shared_a_slot_is_refused() -> None:
    stage_0 = frame_socket(SHAPE, 8)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(stage_0.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match=r"a message of parts \[\d+\] bytes came where .* of 96 bytes were due"):
            stage_0.receive(3)
    stage_0.close()
