"""The coordinator's inbox of reports: which connections it ignores, and which losses end the run."""

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
def signals() -> list[int]:
    return []


@pytest.fixture
def inbox(signals: list[int]) -> Iterator[ReportInbox]:
    inbox = ReportInbox(members.coordinator(stages=2), 60.0, lambda report: None, signals.append)
    yield inbox
    inbox.close()


def join(inbox: ReportInbox, signals: list[int]) -> "zmq.Socket[bytes]":
    """Connect a stage, and wait until the inbox has received a signal number from it."""
    stage: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    stage.connect(inbox.address)
    stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 15}))
    end = time.monotonic() + 10
    while not signals and time.monotonic() < end:
        inbox.poll(100)
    assert signals
    return stage


def linger(inbox: ReportInbox, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        inbox.poll(50)


def visit(inbox: ReportInbox, words: bytes) -> None:
    """Connect without speaking ZeroMQ, send `words` and disconnect."""
    address = urlsplit(inbox.address)
    with socket.create_connection((address.hostname, address.port)) as stranger:
        stranger.sendall(words)
        time.sleep(0.05)


@pytest.mark.parametrize(
    "words",
    [b"", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xff" + bytes(7) + b"\x01\x7f\x03"],
)
def test_connections_that_do_not_speak_zeromq_are_ignored(inbox: ReportInbox, signals: list[int], words: bytes) -> None:
    stage = join(inbox, signals)
    for _ in range(3):
        visit(inbox, words)
    linger(inbox, 0.5)
    stage.close(0)
    for _ in range(2):  # the first poll may handle something else
        with pytest.raises(PeerError, match="disconnected without an error"):
            linger(inbox, 5)


def test_a_failure_report_takes_precedence_over_a_lost_connection(inbox: ReportInbox, signals: list[int]) -> None:
    stage = join(inbox, signals)
    other = join(inbox, signals)
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
def test_reports_of_unknown_stages_are_refused(inbox: ReportInbox, signals: list[int], report: dict[str, Any]) -> None:
    stage = join(inbox, signals)
    stage.send(encode(report))
    with pytest.raises(PeerError, match="another program sending"):
        linger(inbox, 5)
    stage.close(0)


def test_reports_of_an_earlier_attempt_are_ignored(inbox: ReportInbox, signals: list[int]) -> None:
    """From a stage that connects again late: neither its reports nor its disconnection count."""
    late, stage = join(inbox, signals), join(inbox, signals)
    late.send(encode({"kind": "signal", "stage": 1, "attempt": 7, "dropped": 0, "signal": 2}))
    late.send(encode({"kind": "failed", "stage": 1, "attempt": 7, "dropped": 0, "code": 3, "message": "no"}))
    late.send(encode({"kind": "done", "stage": 5, "attempt": 7, "dropped": 0}))  # that attempt had more stages
    linger(inbox, 0.5)
    stage.send(encode({"kind": "signal", "stage": 0, "attempt": 0, "dropped": 0, "signal": 1}))
    end = time.monotonic() + 10
    while 1 not in signals and time.monotonic() < end:
        inbox.poll(50)
    assert set(signals) == {15, 1}
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


def test_a_stage_detects_a_stopped_coordinator() -> None:
    """The stage needs no setting for it: the coordinator sends its timeout."""
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


def test_the_coordinator_detects_a_stopped_stage(signals: list[int]) -> None:
    inbox = ReportInbox(members.coordinator(), 3.0, lambda report: None, signals.append)
    with process(TALKER, inbox.address) as stage:
        while not signals:
            inbox.poll(100)
        linger(inbox, 4.5)  # the stage is alive but sends nothing
        stage.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerError, match="stopped for longer"):
            linger(inbox, 10)
    inbox.close()
