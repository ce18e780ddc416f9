"""Credits: counting, the timeout, and the loss of the other side."""

import socket
import time

import pytest

from common.shared_memory.credits import CreditSocket


def ends(timeout: float) -> tuple[CreditSocket, CreditSocket]:
    ours, theirs = socket.socketpair()
    return CreditSocket(ours, timeout), CreditSocket(theirs, timeout)


def test_credits_are_counted() -> None:
    ours, theirs = ends(5.0)
    for _ in range(100):
        ours.send()
    assert theirs.receive() + theirs.receive() == 100  # at most 64 at once
    for end in (ours, theirs):
        end.close()


def test_no_credit_within_the_timeout_is_an_error() -> None:
    ours, theirs = ends(0.2)
    start = time.monotonic()
    with pytest.raises(BlockingIOError):
        ours.receive()
    assert 0.1 < time.monotonic() - start < 5
    for end in (ours, theirs):
        end.close()


def test_credits_sent_before_a_close_still_count() -> None:
    ours, theirs = ends(60.0)
    theirs.send()
    theirs.close()
    assert ours.receive() == 1
    with pytest.raises(OSError, match="closed by the other side"):
        ours.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        ours.send()
    ours.close()
