"""The coordinator's inbox: who may come and go, and whose going ends the run."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq

from common.errors import PeerError
from common.messages.encoding import encode
from coordinator.monitor.report_inbox import ReportInbox
from tests.support import members


@pytest.fixture
def heard() -> list[int]:
    return []


@pytest.fixture
def inbox(heard: list[int]) -> Iterator[ReportInbox]:
    inbox = ReportInbox(members.coordinator(stages=2), 60.0, lambda report: None, heard.append)
    yield inbox
    inbox.close()


def join(inbox: ReportInbox, heard: list[int]) -> "zmq.Socket[bytes]":
    """A stage connects, and is heard."""
    stage: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    stage.connect(inbox.address)
    stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 15}))
    end = time.monotonic() + 10
    while not heard and time.monotonic() < end:
        inbox.poll(100)
    assert heard
    return stage


def linger(inbox: ReportInbox, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        inbox.poll(50)


def visit(inbox: ReportInbox, words: bytes) -> None:
    """Somebody who does not speak ZeroMQ connects, says `words` and goes."""
    address = urlsplit(inbox.address)
    with socket.create_connection((address.hostname, address.port)) as stranger:
        stranger.sendall(words)
        time.sleep(0.05)


@pytest.mark.parametrize(
    "words",
    [b"", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xff" + bytes(7) + b"\x01\x7f\x03"],
)
def test_strangers_come_and_go(inbox: ReportInbox, heard: list[int], words: bytes) -> None:
    stage = join(inbox, heard)
    for _ in range(3):
        visit(inbox, words)
    linger(inbox, 0.5)
    stage.close(0)
    for _ in range(2):  # whoever heard of it first may have had other things to do
        with pytest.raises(PeerError, match="disconnected without an error"):
            linger(inbox, 5)


def test_a_lost_stages_own_words_are_the_news(inbox: ReportInbox, heard: list[int]) -> None:
    stage = join(inbox, heard)
    other = join(inbox, heard)
    stage.close(0)
    other.send(
        encode(
            {
                "kind": "failed",
                "stage": 1,
                "attempt": 0,
                "dropped": 0,
                "code": 3,
                "message": "stage 1, tick 7: stage 0 is gone",
            }
        )
    )
    with pytest.raises(PeerError, match="stage 1, tick 7"):
        linger(inbox, 5)
    other.close(0)


@pytest.mark.parametrize(
    "report", [{"kind": "progress", "attempt": 0, "stage": 2}, {"kind": "x", "stage": 0}, {"stage": 0}]
)
def test_reports_of_nobody_are_refused(inbox: ReportInbox, heard: list[int], report: dict[str, Any]) -> None:
    stage = join(inbox, heard)
    stage.send(encode(report))
    with pytest.raises(PeerError, match="something else sending"):
        linger(inbox, 5)
    stage.close(0)


def test_a_stage_of_an_earlier_attempt_is_not_heard(inbox: ReportInbox, heard: list[int]) -> None:
    """It came back late: neither what it says of itself nor what it was sent is news."""
    late, stage = join(inbox, heard), join(inbox, heard)
    late.send(encode({"kind": "signal", "stage": 1, "attempt": 7, "dropped": 0, "signal": 2}))
    late.send(encode({"kind": "failed", "stage": 1, "attempt": 7, "dropped": 0, "code": 3, "message": "no"}))
    late.send(encode({"kind": "done", "stage": 5, "attempt": 7, "dropped": 0}))  # there were more stages then
    linger(inbox, 0.5)
    stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 1}))
    end = time.monotonic() + 10
    while 1 not in heard and time.monotonic() < end:
        inbox.poll(50)
    assert set(heard) == {15, 1}
    for each in (late, stage):
        each.close(0)


@contextmanager
def process(code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that runs `code`."""
    other = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield other
    finally:
        other.kill()
        other.communicate()


LISTENER = """
from coordinator.monitor.report_inbox import ReportInbox
from tests.support import members
inbox = ReportInbox(members.coordinator(), 3.0, lambda report: None, lambda number: print("heard", flush=True))
print(inbox.address, flush=True)
while True:
    inbox.poll(100)
"""


def test_a_stage_sees_that_the_coordinator_is_stopped() -> None:
    """Without a setting of its own: the coordinator tells how long it may be silent."""
    stage: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    monitor: zmq.Socket[bytes] = stage.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    with process(LISTENER) as coordinator:
        assert coordinator.stdout is not None
        stage.connect(coordinator.stdout.readline().strip())
        stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 15}))
        assert coordinator.stdout.readline() == "heard\n"
        assert not monitor.poll(4500), "it is there, though it says nothing"
        coordinator.send_signal(signal.SIGSTOP)
        assert monitor.poll(10_000)
    stage.disable_monitor()
    stage.close(0)


TALKER = """
import sys, time, zmq
from common.messages.encoding import encode
stage = zmq.Context.instance().socket(zmq.PUSH)
stage.connect(sys.argv[1])
stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 15}))
time.sleep(60)
"""


def test_the_coordinator_sees_that_a_stage_is_stopped(heard: list[int]) -> None:
    inbox = ReportInbox(members.coordinator(), 3.0, lambda report: None, heard.append)
    with process(TALKER, inbox.address) as stage:
        while not heard:
            inbox.poll(100)
        linger(inbox, 4.5)  # it is there, though it says nothing
        stage.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerError, match="stopped for longer"):
            linger(inbox, 10)
    inbox.close()
