"""Messages over a Unix socket: their bounds, the timeout, and the loss of the other side."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.shared_memory.messages import MessageSocket


def ends(timeout: float = 5.0, largest: int = 1000) -> tuple[MessageSocket, MessageSocket]:
    ours, theirs = socket.socketpair()
    return MessageSocket(ours, timeout, largest), MessageSocket(theirs, timeout, largest)


def test_messages_arrive_whole_and_in_order_beside_credits() -> None:
    ours, theirs = ends()
    messages = [b"", b"a", bytes(1000), b"b" * 999]
    for message in messages:
        ours.put(message)
        assert ours.flush()
        theirs.send()
    assert [theirs.receive_message() for _ in messages] == messages
    assert ours.receive() == len(messages)
    for end in (ours, theirs):
        end.close()


def test_a_message_that_is_too_large_is_refused_before_it_is_read() -> None:
    ours, theirs = ends()
    ours.put(bytes(1001))
    ours.flush()
    with pytest.raises(OSError, match="a message of 1001 bytes, at most 1000 are accepted"):
        theirs.receive_message()
    for end in (ours, theirs):
        end.close()


def test_no_message_within_the_timeout_is_an_error() -> None:
    ours, theirs = ends(timeout=0.2)
    with pytest.raises(BlockingIOError):
        ours.receive_message()
    for end in (ours, theirs):
        end.close()


@pytest.mark.parametrize("sent", [b"", b"\x05\x00", b"\x05\x00\x00\x00ab"])
def test_a_connection_that_ends_within_a_message_is_an_error(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    end = MessageSocket(ours, 5.0, 1000)
    theirs.send(sent) if sent else None
    theirs.close()
    with pytest.raises(ConnectionResetError, match="closed by the other side"):
        end.receive_message()
    end.close()


def test_a_message_for_which_there_is_no_room_is_sent_later() -> None:
    ours, theirs = ends(timeout=0.2, largest=1 << 22)
    message = bytes(range(256)) * (1 << 14)  # 4 MiB
    ours.put(message)
    start = time.monotonic()
    assert not ours.flush()
    assert time.monotonic() - start < 5
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(theirs.receive_message)
        while not ours.flush():
            pass
        assert received.result() == message
    for end in (ours, theirs):
        end.close()
