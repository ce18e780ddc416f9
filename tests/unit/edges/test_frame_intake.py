"""Frames at stage 0: which are refused, and which are ignored."""

import threading
import time

import numpy as np
import pytest
import torch

from common.config.run_file import parse
from common.errors import PeerError
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from coordinator.video.batch import Batch
from coordinator.video.targets import Step, packet_of
from stage_worker.edges.frame_intake import FrameIntake
from stage_worker.edges.target_intake import TargetIntake
from tests.support.frames import feeder_of, frame_socket

SHAPE = (2, 3, 4, 4)


def test_colours_are_jittered_as_for_the_reference() -> None:
    config = parse({"ticks": 1, "data": {"train": ".", "slots": 2, "size": 4}}, "test")
    batch = Batch(SHAPE)
    batch.frames[:] = np.random.default_rng(0).integers(0, 256, SHAPE)
    batch.colours = np.array([[1.2, 0.7, 1.4, 0.2], [0.6, 1.3, 0.5, -0.4]])
    stage_0 = frame_socket(SHAPE)
    feeder = feeder_of(stage_0)
    feeder.push(0, 0, Step(batch, batch, last=False))
    packet = FrameIntake(stage_0, Packet(SHAPE), Normaliser(*config.data.normalisation)).receive(0)
    assert torch.equal(packet.tensor, packet_of(batch, config, 0).tensor)
    batch.colours = None
    assert not torch.equal(packet.tensor, packet_of(batch, config, 0).tensor)
    feeder.close()
    stage_0.close()


def step(value: int, shape: tuple[int, int, int, int] = SHAPE) -> Step:
    batch = Batch(shape)
    batch.frames[:] = value
    return Step(batch, batch, last=False)


def test_frames_of_an_earlier_attempt_are_ignored() -> None:
    """They are of the expected tick; some have another shape or another number of slots."""
    stage_0 = frame_socket(SHAPE, 8, deadline=2.0)
    late = feeder_of(stage_0, 7)
    late.push(0, 7, step(1))
    late.push(0, 7, step(2, (2, 3, 8, 8)))
    late.push(0, 7, step(2, (5, 3, 4, 4)))
    with pytest.raises(PeerError, match="no frames from the coordinator for 2 s"):
        stage_0.receive(7)
    feeder = feeder_of(stage_0, 8)
    feeder.push(0, 7, step(3))
    envelope, frames = stage_0.receive(7)
    assert (envelope.attempt, envelope.frame) == (8, 7)
    assert np.array_equal(frames.numpy(), step(3).batch.frames)
    for each in (late, feeder):
        each.close()
    stage_0.close()


def test_a_target_that_comes_twice_is_refused() -> None:
    socket = frame_socket(SHAPE)
    feeder, held = feeder_of(socket), Packet(SHAPE)
    targets = TargetIntake(socket, torch.empty(SHAPE), Normaliser([0.0] * 3, [1.0] * 3))
    feeder.push(0, 4, step(1))
    held.set_header(4, 4)
    targets.target(5, held)
    feeder.push(0, 4, step(1))
    held.set_header(5, 5)
    with pytest.raises(PeerError, match=r"tick 6: received frame 4 of phase 0, expected frame 5 of phase 0"):
        targets.target(6, held)
    assert not targets.early
    feeder.close()
    socket.close()


def test_another_shape_is_refused_with_both_sizes() -> None:
    stage_0 = frame_socket(SHAPE, deadline=2.0)
    feeder = feeder_of(stage_0)
    feeder.push(0, 7, step(1, (2, 3, 8, 8)))
    with pytest.raises(
        PeerError, match=r"stage 0, tick 7: received message parts of \[\d+, 384\] bytes, .* of 96 bytes"
    ):
        stage_0.receive(7)
    feeder.close()
    stage_0.close()


def test_frames_of_an_earlier_attempt_do_not_extend_the_deadline() -> None:
    stage_0 = frame_socket(SHAPE, 8, deadline=1.0)
    late, over = feeder_of(stage_0, 7), threading.Event()

    def go_on() -> None:
        while not over.wait(0.05):
            late.push(0, 7, step(1))

    thread = threading.Thread(target=go_on)
    thread.start()
    began = time.monotonic()
    with pytest.raises(PeerError, match="no frames from the coordinator for 1 s"):
        stage_0.receive(7)
    assert time.monotonic() - began < 3
    over.set()
    thread.join()
    late.close()
    stage_0.close()
