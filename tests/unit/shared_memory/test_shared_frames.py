"""Frames in memory shared by coordinator and stage 0: no early overwrites and no endless waits."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.settings import Network
from common.errors import PeerError
from common.messages.frame_envelope import Envelope, encode_frames
from common.messages.stage_calls import Addresses
from common.rule.label_form import LabelForm
from common.shared_memory.frame_memory import IN_USE, FrameMemory
from common.shared_memory.shared_frames import CREDITS
from coordinator.video.batch import Batch
from coordinator.video.feeder import Feeder, Feeders
from coordinator.video.targets import Step
from stage_worker.edges.frame_socket import FrameSocket, Received
from tests.support import members
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
    """Send a batch whose pixels encode its number, and overwrite it afterwards."""
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
def test_every_batch_arrives_unchanged_however_far_one_side_is_ahead(turns: list[bool]) -> None:
    """Turns: True if the coordinator sends a batch unless it would wait, False if the stage takes one if any."""
    with connected() as (feeder, stage_0):
        sent, waiting = 0, deque[int]()
        for sends in turns:
            taken = sent - len(waiting)
            if sends and sent - taken // CREDITS * CREDITS < IN_USE:
                push(feeder, sent)
                waiting.append(sent)
                sent += 1
            elif not sends and waiting:
                envelope = take(stage_0, waiting.popleft())
                assert envelope.place is not None
                stage_0.release(envelope)


def test_a_batch_in_use_is_not_overwritten() -> None:
    with connected(deadline=3.0) as (feeder, stage_0):
        for frame in range(IN_USE):
            push(feeder, frame)
        envelope, frames = stage_0.receive(0)
        with pytest.raises(PeerError, match=f"stage 0 has accepted no frame since frame {IN_USE - 1} for 3 s"):
            push(feeder, IN_USE)
        assert (frames == 0).all()
        stage_0.release(envelope)
        for frame in range(1, IN_USE // 2):  # credits come a few at a time
            stage_0.release(take(stage_0, frame))
        push(feeder, IN_USE)
        for frame in range(IN_USE // 2, IN_USE + 1):
            stage_0.release(take(stage_0, frame))


def test_a_lost_stage_is_reported_at_once() -> None:
    with connected(deadline=60) as (feeder, stage_0):
        for frame in range(IN_USE):
            push(feeder, frame)
        take(stage_0, 0)
        assert stage_0._shared is not None
        stage_0._shared.close()
        with pytest.raises(PeerError, match="stage 0 has exited"):
            push(feeder, IN_USE)


def test_a_failure_of_another_stage_takes_precedence_over_a_lost_stage_0() -> None:
    """Its neighbour may have failed first."""
    calls = iter(range(5))

    def look() -> None:
        if next(calls) == 4:
            raise PeerError("stage 1 has failed, and this is why")

    stage_0 = frame_socket(SHAPE, 8, shares_memory=True)
    feeder = feeder_of(stage_0, 8, 60, look)
    for frame in range(IN_USE):
        push(feeder, frame)
    take(stage_0, 0)
    stage_0.close()
    with pytest.raises(PeerError, match="stage 1 has failed"):
        push(feeder, IN_USE)
    feeder.close()


@pytest.mark.parametrize("place", [(1, 96 * IN_USE), (1, 96 * IN_USE - 1), (0, 0)])
def test_a_place_outside_the_memory_is_refused(place: tuple[int, int]) -> None:
    with connected(deadline=60) as (feeder, stage_0):
        push(feeder, 0)
        take(stage_0, 0)
        assert stage_0._shared is not None
        with pytest.raises(PeerError, match=f"of memory {place[0]}, but memory 1 has {96 * IN_USE} bytes"):
            stage_0._shared.frames(place)


def test_batches_are_read_where_they_lie_also_in_one_memory_after_another() -> None:
    """As in a training, an evaluation, and the training again; with frames in the feeder's own memory in between."""
    memories = [FrameMemory((3, *SHAPE), "uint8") for _ in range(2)]
    with connected() as (feeder, stage_0):
        for frame, (memory, number) in enumerate([(0, 0), (0, 2), (1, 1), (None, 0), (0, 1), (1, 0)]):
            batch = Batch(SHAPE)
            if memory is not None:
                batch.memory, batch.frames = memories[memory], memories[memory].pixels[number]
            batch.frames[:] = 50
            feeder.push(0, frame, Step(batch, batch, last=False))
            envelope, frames = stage_0.receive(frame)
            batch.frames[1] = 51
            assert frames[0].eq(50).all()
            assert frames[1].eq(50 if memory is None else 51).all()
            stage_0.release(envelope)
    for each in memories:
        each.close()


def test_each_replica_reads_its_rows_of_a_batch() -> None:
    memory, step = FrameMemory((2, 4, 3, 4, 4), "uint8"), Batch((4, 3, 4, 4))
    step.memory, step.frames = memory, memory.pixels[1]
    step.frames[:] = np.arange(4).reshape(4, 1, 1, 1)
    with connected() as first, connected() as second:
        feeders = Feeders([first[0], second[0]])
        feeders.push(0, 0, Step(step, step, last=False))
        for number, (_, stage_0) in enumerate((first, second)):
            envelope, frames = stage_0.receive(0)
            assert envelope.place == (1, (2 + number) * 96)
            assert frames[:, 0, 0, 0].tolist() == [2 * number, 2 * number + 1]
    memory.close()


def test_a_lost_coordinator_is_reported_at_once() -> None:
    with connected(deadline=60) as (feeder, stage_0):
        push(feeder, 0)
        envelope = take(stage_0, 0)
        feeder.close()
        with pytest.raises(PeerError, match="stage 0, tick 1: the coordinator is gone"):
            stage_0.receive(1)
        for _ in range(IN_USE // 2 - 1):
            stage_0.release(envelope)
        with pytest.raises(PeerError, match="stage 0, frame 0: the coordinator has exited"):
            stage_0.release(envelope)


def test_a_silent_feeder_is_reported_after_the_deadline() -> None:
    with connected(deadline=1.0) as (feeder, stage_0):
        push(feeder, 0)
        stage_0.release(take(stage_0, 0))
        with pytest.raises(PeerError, match="stage 0, tick 1: no frames from the coordinator for 1 s"):
            stage_0.receive(1)


def test_a_stage_that_reads_nothing_is_reported_also_if_envelopes_are_large() -> None:
    """The kernel has no room for as many of them as there are batches in use."""
    form, calls = LabelForm(40_000), list[int]()
    me = members.stage(attempt=8)
    stage_0 = FrameSocket(me, Network(deadline=5.0), SHAPE, 4, "stage 0", True, labels=form)
    addresses = [Addresses(stage_0.address, "", memory=stage_0.memory)]
    feeder = Feeder(members.coordinator(attempt=8), addresses, 96, 1.0, lambda: calls.append(1))
    batch = Batch(SHAPE, form=form)

    def push_all() -> None:
        for frame in range(IN_USE):
            feeder.push(0, frame, Step(batch, batch, last=False))

    with pytest.raises(PeerError, match="stage 0 has accepted no frame since frame"):
        push_all()
    assert calls
    feeder.close()
    stage_0.close()


def test_only_the_first_envelope_of_a_phase_comes_over_zeromq() -> None:
    with connected() as (feeder, stage_0):
        batch = Batch(SHAPE)
        for phase in (0, 0, 1, 1, 0, 0, 2):
            feeder.push(phase, 0, Step(batch, batch, last=False))
        over_zeromq = list[int]()
        receive = stage_0._receive

        def noted() -> Received | None:
            received = receive()
            assert received is not None
            over_zeromq.append(received[0].phase)
            return received

        stage_0._receive = noted  # type: ignore[method-assign]
        for phase in (0, 0, 1, 1, 0, 0, 2):
            envelope, _ = stage_0.receive(0, phase)
            assert envelope.phase == phase
            stage_0.release(envelope)
        assert over_zeromq == [0, 1, 2]


def test_an_evaluation_may_come_over_zeromq_from_another_process_meanwhile() -> None:
    """With readers only the training's frames lie in shared memory."""
    with connected() as (feeder, stage_0):
        own = Feeder(members.coordinator(attempt=8), [Addresses(stage_0.address, "")], 96, 5.0, lambda: None)
        batch = Batch(SHAPE)
        for phase in (0, 0, 1, 1, 0):
            (own if phase else feeder).push(phase, 0, Step(batch, batch, last=False))
            envelope, _ = stage_0.receive(0, phase)
            assert (envelope.phase, envelope.place is None) == (phase, phase == 1)
            stage_0.release(envelope)
        own.close()


def test_frames_are_sent_where_memory_cannot_be_shared() -> None:
    stage_0, warnings = frame_socket(SHAPE, 8, shares_memory=True), list[str]()
    stage_0.memory = "sideways-nobody"
    feeder = feeder_of(stage_0, 8, 5.0, warn=warnings.append)
    assert "frames are sent over TCP" in warnings[0]
    for frame in range(3 * IN_USE):
        push(feeder, frame)
        envelope = take(stage_0, frame)
        assert envelope.place is None
        stage_0.release(envelope)
    feeder.close()
    stage_0.close()


def test_a_place_without_a_coordinator_that_shares_memory_is_an_error() -> None:
    """A message says where frames lie although no memory is shared."""
    stage_0 = frame_socket(SHAPE, 8, deadline=3.0, shares_memory=True)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(stage_0.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, place=(1, 0)))
        with pytest.raises(PeerError, match="the coordinator, on this host, does not connect"):
            stage_0.receive(3)
    stage_0.close()


def test_a_message_with_both_a_place_and_frames_is_refused() -> None:
    with connected() as (_, stage_0), zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        none = np.zeros(2, np.int64)
        stranger.connect(stage_0.address)
        stranger.send_multipart([encode_frames(8, 0, 3, False, none, none, place=(1, 0)), bytes(96)])
        with pytest.raises(PeerError, match=r"received message parts of \[\d+, 96\] bytes"):
            stage_0.receive(3)


def test_a_place_is_refused_where_memory_is_not_shared() -> None:
    stage_0 = frame_socket(SHAPE, 8)
    none = np.zeros(2, np.int64)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(stage_0.address)
        stranger.send(encode_frames(8, 0, 3, False, none, none, place=(1, 0)))
        with pytest.raises(PeerError, match=r"received message parts of \[\d+\] bytes, expected .* of 96 bytes"):
            stage_0.receive(3)
    stage_0.close()
