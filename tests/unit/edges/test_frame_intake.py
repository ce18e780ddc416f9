"""Where frames enter a stage: what is refused, and what is not heard at all."""

import threading
import time

import numpy as np
import pytest

from common.errors import PeerError
from common.messages.stage_calls import Addresses
from coordinator.video.feeder import Feeder
from coordinator.video.targets import Batch, Step
from stage_worker.edges.frame_intake import FrameSocket

SHAPE = (2, 3, 4, 4)


def step(value: int, shape: tuple[int, int, int, int] = SHAPE) -> Step:
    batch = Batch(shape)
    batch.frames[:] = value
    return Step(batch, batch, last=False)


def test_a_coordinator_of_an_earlier_attempt_is_not_heard() -> None:
    """Its frames are of the tick that is due, some of another shape, some of another number of slots."""
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 2.0, "stage 0", attempt=8)
    addresses = [Addresses(frame_socket.address, "")]
    late = Feeder(addresses, 96, 1.0, lambda: None, attempt=7)
    late.push(0, 7, step(1))
    late.push(0, 7, step(2, (2, 3, 8, 8)))
    late.push(0, 7, step(2, (5, 3, 4, 4)))
    with pytest.raises(PeerError, match="no frames from the coordinator for 2 s"):
        frame_socket.receive(7)
    feeder = Feeder(addresses, 96, 1.0, lambda: None, attempt=8)
    feeder.push(0, 7, step(3))
    envelope, frames = frame_socket.receive(7)
    assert (envelope.attempt, envelope.frame) == (8, 7)
    assert np.array_equal(frames.numpy(), step(3).batch.frames)
    for each in (late, feeder):
        each.close()
    frame_socket.close()


def test_another_shape_is_refused_with_both_sizes() -> None:
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 2.0, "stage 0")
    feeder = Feeder([Addresses(frame_socket.address, "")], 96, 1.0, lambda: None)
    feeder.push(0, 7, step(1, (2, 3, 8, 8)))
    with pytest.raises(
        PeerError, match=r"stage 0, tick 7: a message of parts \[\d+, 384\] bytes .* of 96 bytes were due"
    ):
        frame_socket.receive(7)
    feeder.close()
    frame_socket.close()


def test_nor_can_it_make_a_stage_wait_for_ever() -> None:
    frame_socket = FrameSocket("127.0.0.1", 4, SHAPE, 1 << 20, 1.0, "stage 0", attempt=8)
    late, over = Feeder([Addresses(frame_socket.address, "")], 96, 1.0, lambda: None, attempt=7), threading.Event()

    def go_on() -> None:
        while not over.wait(0.05):
            late.push(0, 7, step(1))

    thread = threading.Thread(target=go_on)
    thread.start()
    began = time.monotonic()
    with pytest.raises(PeerError, match="no frames from the coordinator for 1 s"):
        frame_socket.receive(7)
    assert time.monotonic() - began < 3
    over.set()
    thread.join()
    late.close()
    frame_socket.close()
