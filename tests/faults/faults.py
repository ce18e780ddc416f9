"""What can happen to a run, done to it for real: to its processes by signals, to its sockets by messages."""

import enum
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import msgpack
import psutil
import zmq

from tests.helpers import Background

_GREETING = b"\xff"  # the first byte that a ZeroMQ listener says to anybody who connects


class Fault(enum.Enum):
    """What happens. `Fault.restarts` tells whether the run has to begin anew from its last checkpoint."""

    KILLED = enum.auto()  # kill -9
    STALLED = enum.auto()  # SIGSTOP, for longer than the deadline
    HELD_UP = enum.auto()  # SIGSTOP for a moment
    SLOW = enum.auto()  # a tenth of its time for a while
    GARBAGE = enum.auto()  # a ZeroMQ message that is no msgpack
    TRUNCATED = enum.auto()  # a right envelope, and half the frames
    MISSHAPEN = enum.auto()  # frames of another size
    REPEATED = enum.auto()  # a message that is right in itself, of a frame that was there before
    FLOOD = enum.auto()  # a message that is larger than any may be

    @property
    def restarts(self) -> bool:
        """Whether it ends the attempt."""
        return self not in (Fault.HELD_UP, Fault.SLOW)

    def inject(self, run: Background, who: str) -> None:
        """Do it to one process of a run: "coordinator", "stage0" …"""
        pid = run.members()[who]
        if self in _SIGNALS:
            _SIGNALS[self](pid)
        else:
            _send(_listeners(pid), self._message(8, 3 * 32 * 32))

    def told(self, who: str) -> str:
        """A pattern of what the user is told of it."""
        named = "the coordinator" if who == "coordinator" else who.replace("stage", "stage ")
        return {
            Fault.KILLED: rf"{named}.* was killed by SIGKILL|{named}.* (is gone|connection)|the coordinator is gone",
            Fault.STALLED: r"for \d+ s|was killed by SIGKILL",
            Fault.GARBAGE: "is something else sending",
            Fault.TRUNCATED: r"stage 0, tick \d+: a message of parts .* bytes came where .* were due",
            Fault.MISSHAPEN: r"stage 0, tick \d+: a message of parts .* bytes came where .* were due",
            Fault.REPEATED: r"stage 0, tick \d+: frame 3 of phase 0 came where frame \d+ of phase 0 was due",
            Fault.FLOOD: "a stage worker is gone without a word",
        }.get(self, "")  # of what ends no attempt nothing is told

    def _message(self, rows: int, frame: int) -> list[bytes]:
        """Message parts, for runs whose batches have so many rows, of so many bytes each."""
        envelope = {"phase": 0, "frame": 3, "last": False, "clips": bytes(8 * rows), "labels": bytes(8 * rows)}
        return {
            Fault.GARBAGE: [b"\xc1" + os.urandom(40)],
            Fault.TRUNCATED: [msgpack.packb(envelope), bytes(rows * frame // 2)],
            Fault.MISSHAPEN: [msgpack.packb(envelope), bytes(rows * frame * 4)],
            Fault.REPEATED: [msgpack.packb(envelope), bytes(rows * frame)],
            Fault.FLOOD: [bytes(1 << 26)],
        }[self]


def _hold_up(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)


def _slow_down(pid: int) -> None:
    end = time.monotonic() + 4
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.09)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


_SIGNALS: dict[Fault, Callable[[int], None]] = {
    Fault.KILLED: lambda pid: os.kill(pid, signal.SIGKILL),
    Fault.STALLED: lambda pid: os.kill(pid, signal.SIGSTOP),
    Fault.HELD_UP: _hold_up,
    Fault.SLOW: _slow_down,
}


def _listeners(pid: int) -> list[int]:
    """The ports on which a process waits for ZeroMQ: only there is one greeted."""
    ports = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    with ExitStack() as lines, selectors.DefaultSelector() as selector:
        for port in ports:
            with suppress(OSError):
                line = lines.enter_context(socket.create_connection(("127.0.0.1", port), 5))
                selector.register(line, selectors.EVENT_READ, port)
        greeted = [key for key, _ in selector.select(5)]
        found = [
            key.data for key in greeted if isinstance(key.fileobj, socket.socket) and key.fileobj.recv(1) == _GREETING
        ]
    assert found, f"process {pid} listens on {ports}, and none is ZeroMQ's"
    return found


def _send(ports: list[int], parts: list[bytes]) -> None:
    with zmq.Context() as context:
        for port in ports:
            stranger: zmq.Socket[bytes] = context.socket(zmq.PUSH)
            stranger.setsockopt(zmq.LINGER, 2000)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            stranger.send_multipart(parts)
            stranger.close()
