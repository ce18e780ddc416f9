"""Frames in memory that coordinator and stage 0 share: nothing is overwritten too early, nobody waits for ever."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from common.control import Addresses
from common.errors import PeerError
from common.handover import SLOTS
from common.wire import Envelope, encode_frames
from coordinator.course import Batch, Step
from coordinator.feed import Feeder
from stage_worker.intake import Inlet

SHAPE = (2, 3, 4, 4)


@contextmanager
def connected(deadline: float = 5.0) -> Iterator[tuple[Feeder, Inlet]]:
    inlet = Inlet("127.0.0.1", 4, SHAPE, 1 << 20, deadline, "stage 0", epoch=8, beside=True)
    feeder = Feeder([Addresses(inlet.address, "", memory=inlet.memory)], 96, deadline, lambda: None, epoch=8)
    yield feeder, inlet
    feeder.close()
    inlet.close()


def push(feeder: Feeder, frame: int) -> None:
    """A batch whose pixels tell its number, and which is used for something else at once."""
    batch = Batch(SHAPE)
    batch.frames[:] = frame
    feeder.push(0, frame, Step(batch, batch, last=False))
    batch.frames[:] = 255


def take(inlet: Inlet, frame: int) -> Envelope:
    envelope, frames = inlet.take(frame)
    assert (envelope.frame, tuple(frames.shape)) == (frame, SHAPE)
    assert (frames == frame).all()
    return envelope


@settings(max_examples=25)
@given(st.lists(st.booleans(), max_size=60))
def test_every_batch_arrives_as_it_was_however_far_one_side_is_ahead(turns: list[bool]) -> None:
    """True: the coordinator sends one, if it may without waiting; False: the stage takes one, if there is any."""
    with connected() as (feeder, inlet):
        sent, waiting = 0, deque[int]()
        for sends in turns:
            if sends and len(waiting) < SLOTS:
                push(feeder, sent)
                waiting.append(sent)
                sent += 1
            elif not sends and waiting:
                envelope = take(inlet, waiting.popleft())
                assert envelope.slot is not None
                inlet.done(envelope)


def test_a_batch_that_is_not_done_with_is_not_overwritten() -> None:
    with connected(deadline=3.0) as (feeder, inlet):
        for frame in range(SLOTS):
            push(feeder, frame)
        envelope, frames = inlet.take(0)
        with pytest.raises(PeerError, match=f"stage 0 has taken no frame since frame {SLOTS - 1} for 3 s"):
            push(feeder, SLOTS)
        assert (frames == 0).all()
        inlet.done(envelope)
        push(feeder, SLOTS)
        for frame in range(1, SLOTS + 1):
            inlet.done(take(inlet, frame))


def test_a_stage_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, inlet):
        for frame in range(SLOTS):
            push(feeder, frame)
        take(inlet, 0)
        assert inlet._taker is not None
        inlet._taker.close()
        with pytest.raises(PeerError, match="stage 0 has gone"):
            push(feeder, SLOTS)


def test_a_stage_that_has_gone_is_asked_for_its_own_words_first() -> None:
    """A neighbour of its may have failed, and stage 0 with it."""
    calls = iter(range(5))

    def look() -> None:
        if next(calls) == 4:
            raise PeerError("stage 1 has failed, and this is why")

    inlet = Inlet("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", epoch=8, beside=True)
    feeder = Feeder([Addresses(inlet.address, "", memory=inlet.memory)], 96, 60, look, epoch=8)
    for frame in range(SLOTS):
        push(feeder, frame)
    take(inlet, 0)
    inlet.close()
    with pytest.raises(PeerError, match="stage 1 has failed"):
        push(feeder, SLOTS)
    feeder.close()


def test_a_coordinator_that_has_gone_is_told_at_once() -> None:
    with connected(deadline=60) as (feeder, inlet):
        push(feeder, 0)
        envelope = take(inlet, 0)
        feeder.close()
        with pytest.raises(PeerError, match="stage 0, frame 0: the coordinator has gone"):
            inlet.done(envelope)


def test_where_memory_cannot_be_shared_frames_are_sent() -> None:
    inlet, warnings = Inlet("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", epoch=8, beside=True), list[str]()
    address = Addresses(inlet.address, "", memory="sideways-nobody")
    feeder = Feeder([address], 96, 5.0, lambda: None, epoch=8, warn=warnings.append)
    assert "frames are sent over TCP" in warnings[0]
    for frame in range(3 * SLOTS):
        push(feeder, frame)
        envelope = take(inlet, frame)
        assert envelope.slot is None
        inlet.done(envelope)
    feeder.close()
    inlet.close()


def test_a_stranger_s_slot_is_of_no_use() -> None:
    """It names a slot, and no coordinator has shared any memory."""
    inlet = Inlet("127.0.0.1", 4, SHAPE, 1 << 20, 3.0, "stage 0", epoch=8, beside=True)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(inlet.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match="the coordinator, on this host, does not connect"):
            inlet.take(3)
    inlet.close()


def test_a_slot_and_frames_are_not_both_taken() -> None:
    with connected() as (_, inlet), zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        none = np.zeros(2, np.int64)
        stranger.connect(inlet.address)
        stranger.send_multipart([encode_frames(8, 0, 3, False, none, none, slot=1), bytes(96)])
        with pytest.raises(PeerError, match=r"a message of parts \[\d+, 96\] bytes came"):
            inlet.take(3)


def test_where_nothing_is_shared_a_slot_is_refused() -> None:
    inlet = Inlet("127.0.0.1", 4, SHAPE, 1 << 20, 5.0, "stage 0", epoch=8)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(inlet.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, slot=1))
        with pytest.raises(PeerError, match=r"a message of parts \[\d+\] bytes came where .* of 96 bytes were due"):
            inlet.take(3)
    inlet.close()
