"""Encrypted sockets between hosts: only members of the run can connect."""

import numpy as np
import pytest
import zmq

from common.errors import PeerError
from common.messages.encoding import encode
from common.processes.zmq_curve import CurveKeys
from coordinator.monitor.report_inbox import ReportInbox
from coordinator.video.batch import Batch
from coordinator.video.targets import Step
from tests.support import members
from tests.support.frames import feeder_of, frame_socket

SHAPE = (2, 3, 4, 4)


def stranger(address: str, curve: CurveKeys | None, server: bytes) -> "zmq.Socket[bytes]":
    """A PUSH socket with other keys, or without keys."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    if curve is not None:
        curve.connect(socket, server)
    socket.connect(address)
    return socket


@pytest.mark.parametrize("has_keys", [True, False])
def test_reports_without_the_runs_keys_are_dropped(has_keys: bool) -> None:
    coordinator, stage, other = CurveKeys(), CurveKeys(), CurveKeys()
    coordinator.allow([stage.public])
    signals: list[int] = []
    me = members.coordinator(curve=coordinator)
    inbox = ReportInbox(me, 60.0, lambda report: None, signals.append)
    foe = stranger(inbox.address, other if has_keys else None, coordinator.public)
    foe.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 1}))
    friend = stranger(inbox.address, stage, coordinator.public)
    friend.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 2}))
    while not signals:
        inbox.poll(5000)
    inbox.poll(500)
    assert signals == [2]
    for socket in (foe, friend):
        socket.close(0)
    inbox.close()


def test_frames_pass_only_between_the_coordinators_and_the_stages_keys() -> None:
    coordinator, stage, other = CurveKeys(), CurveKeys(), CurveKeys()
    stage.allow([coordinator.public])
    stage_0 = frame_socket(SHAPE, deadline=2.0, curve=stage)
    batch = Batch(SHAPE)
    batch.frames[:] = np.arange(96).reshape(SHAPE)
    step = Step(batch, batch, last=False)
    for curve, key in ((other, stage.public), (coordinator, other.public)):  # a wrong sender, a wrong receiver
        feeder = feeder_of(stage_0, curve=curve, key=key.decode())
        feeder.push(0, 7, step)  # ZeroMQ queues it until a receiver answers
        with pytest.raises(PeerError, match="no frames from the coordinator for 2 s"):
            stage_0.receive(7)
        feeder.close()
    feeder = feeder_of(stage_0, curve=coordinator, key=stage.public.decode())
    feeder.push(0, 7, step)
    envelope, frames = stage_0.receive(7)
    assert envelope.frame == 7
    assert np.array_equal(frames.numpy(), batch.frames)
    feeder.close()
    stage_0.close()
