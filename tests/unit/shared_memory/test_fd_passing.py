"""Processes of a host find each other and pass on open files."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from common.errors import PeerError
from common.shared_memory.fd_passing import FdConnection, FdListener, connect


def test_stages_of_a_host_find_each_other() -> None:
    listener = FdListener()
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    (passed,) = above.receive_files("forward", 1)
    os.write(passed, b"x")
    assert os.read(reading, 2) == b"x"
    below.send_files("forward", [writing])
    with pytest.raises(PeerError, match="stage 0, a neighbour on this host, sent 1 files as b'forward' where 'evaluat"):
        above.receive_files("evaluation", 1)
    for file in (reading, writing, passed):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_s_process_is_not_let_in_and_keeps_nobody_out() -> None:
    listener = FdListener()
    _come_as_nobody(listener)
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    for file in (reading, writing, *above.receive_files("forward", 1)):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_where_only_another_user_s_process_comes_that_is_told() -> None:
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
    ("attempt", "told"),
    [
        (unanswered, "stage 1, on this host, does not connect: timed out"),
        (unheard, "stage 0, on this host, cannot be reached over a Unix socket: .*set network.transport"),
        (silent, r"stage 0, a neighbour on this host, did not send files \(timed out"),
    ],
)
def test_one_that_does_not_answer_is_named(attempt: Callable[[], None], told: str) -> None:
    with pytest.raises(PeerError, match=told):
        attempt()
