"""Processes on one host connect to each other and pass open files."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from common.errors import PeerError
from common.shared_memory.fd_passing import FdConnection, FdListener, connect


def test_stages_on_one_host_connect_and_pass_files() -> None:
    listener = FdListener()
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    (passed,) = above.receive_files("forward", 1)
    os.write(passed, b"x")
    assert os.read(reading, 2) == b"x"
    below.send_files("forward", [writing])
    with pytest.raises(PeerError, match=r"stage 0, .*, sent 1 file descriptors as b'forward', expected 1 as 'evaluat"):
        above.receive_files("evaluation", 1)
    for file in (reading, writing, passed):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_process_is_refused_and_does_not_block_others() -> None:
    listener = FdListener()
    _come_as_nobody(listener)
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    for file in (reading, writing, *above.receive_files("forward", 1)):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_refused_process_is_named_when_no_other_connects() -> None:
    listener = FdListener()
    _come_as_nobody(listener)
    with pytest.raises(PeerError, match="stage 1 on this host runs as user 65534, and this process as user 0"):
        listener.accept("stage 1", 0.1)


def _come_as_nobody(listener: FdListener) -> None:
    connect = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect('\\0{listener.name}')"
    subprocess.run([sys.executable, "-c", connect], check=True)


def unanswered() -> None:
    FdListener().accept("stage 1", 0.01)


def unheard() -> None:
    connect("sideways-nobody", "stage 0", 5)


def silent() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        FdConnection(ours, "stage 0", 0.01).receive_files("forward", 1)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (unanswered, "stage 1, on this host, does not connect: timed out"),
        (unheard, "stage 0, on this host, cannot be reached over a Unix socket: .*set network.transport"),
        (silent, r"stage 0, a neighbour on this host, did not send file descriptors \(timed out"),
    ],
)
def test_a_neighbour_that_does_not_answer_is_named(attempt: Callable[[], None], message: str) -> None:
    with pytest.raises(PeerError, match=message):
        attempt()
