"""What can happen to a run, done to it for real: to its processes by signals, to its sockets by messages."""

import enum
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np
import psutil
import zmq

from common.messages.frame_envelope import encode_frames
from tests.support.processes import Background, sideways

_GREETING = b"\xff"  # the first byte that a ZeroMQ listener says to anybody who connects


class Fault(enum.Enum):
    """What happens. `restarts`: the run has to begin anew from its last checkpoint. `ends`: that is its end.

    Two agents whose link is cut, slow or lossy are in network.py: they need hosts of their own.
    """

    KILLED = enum.auto()  # kill -9
    STALLED = enum.auto()  # SIGSTOP, for longer than the deadline
    HELD_UP = enum.auto()  # SIGSTOP for a moment
    SLOW = enum.auto()  # a tenth of its time for a while
    GARBAGE = enum.auto()  # a ZeroMQ message that is no msgpack
    TRUNCATED = enum.auto()  # a right envelope, and half the frames
    MISSHAPEN = enum.auto()  # frames of another size
    REPEATED = enum.auto()  # a message that is right in itself, of a frame that was there before
    POINTED = enum.auto()  # such a message that says where in shared memory its frames were
    FLOOD = enum.auto()  # a message that is larger than any may be
    LATE = enum.auto()  # an earlier attempt's coordinator still sends frames
    FULL_DISK = enum.auto()  # no file of a stage can grow, while checkpoints come due
    REDIS_DOWN = enum.auto()  # SIGSTOP for 20 s
    NAN = enum.auto()  # the loss, by a learning rate that no weights survive; needs report.redis

    @property
    def restarts(self) -> bool:
        """Whether it ends the attempt."""
        passing = (Fault.HELD_UP, Fault.SLOW, Fault.LATE, Fault.FULL_DISK, Fault.REDIS_DOWN)
        return self not in passing and not self.ends

    @property
    def ends(self) -> bool:
        """Whether it ends the run, if recovery.divergence is "stop"."""
        return self is Fault.NAN

    def inject(self, run: Background, who: str) -> None:
        """Do it to one process of a run: "coordinator", "stage0", "redis" …"""
        members = run.members()
        if self is Fault.NAN:
            done = sideways("set", "it", "lr=1e30", cwd=run.folder)
            assert done.returncode == 0, done.stderr
        elif self in _TO_A_PROCESS:
            _TO_A_PROCESS[self](members[who])
        else:
            attempt = _attempt(members["coordinator"]) - (self is Fault.LATE)
            for message in self._messages(attempt, 8, 3 * 32 * 32):
                _send(_listeners(members[who]), message)

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
            Fault.POINTED: r"stage 0, tick \d+: frame 3 of phase 0 came where frame \d+ of phase 0 was due",
            Fault.FLOOD: "a stage worker disconnected without an error",
            Fault.FULL_DISK: "the checkpoint of tick .* could not be kept: .*(File too large|took no more bytes)",
            Fault.NAN: "the training has diverged, the loss is .* try a smaller optimiser.lr",
        }.get(self, "")  # of what ends no attempt nothing is told

    def _messages(self, attempt: int, rows: int, frame: int) -> list[list[bytes]]:
        """Messages of several parts, for runs whose batches have so many rows, of so many bytes each."""
        ids = np.zeros(rows, np.int64)
        envelope = encode_frames(attempt, 0, 3, False, ids, ids)
        return {
            Fault.GARBAGE: [[b"\xc1" + os.urandom(40)]],
            Fault.TRUNCATED: [[envelope, bytes(rows * frame // 2)]],
            Fault.MISSHAPEN: [[envelope, bytes(rows * frame * 4)]],
            Fault.REPEATED: [[envelope, bytes(rows * frame)]],
            Fault.POINTED: [[encode_frames(attempt, 0, 3, False, ids, ids, slot=1)]],
            Fault.FLOOD: [[bytes(1 << 26)]],
            Fault.LATE: [[envelope, bytes(size)] for size in (rows, rows * frame)],
        }[self]


def _hold_up(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # a Redis that says nothing is replaced
        os.kill(pid, signal.SIGCONT)


def _slow_down(pid: int) -> None:
    end = time.monotonic() + 4
    with suppress(ProcessLookupError):  # the run may be over
        while time.monotonic() < end:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.09)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)


def _fill_disk(pid: int) -> None:
    process = psutil.Process(pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    time.sleep(2)
    with suppress(psutil.NoSuchProcess):  # the run may be over
        process.rlimit(resource.RLIMIT_FSIZE, before)


_TO_A_PROCESS: dict[Fault, Callable[[int], None]] = {
    Fault.KILLED: lambda pid: os.kill(pid, signal.SIGKILL),
    Fault.STALLED: lambda pid: os.kill(pid, signal.SIGSTOP),
    Fault.HELD_UP: lambda pid: _hold_up(pid, 1.5),
    Fault.REDIS_DOWN: lambda pid: _hold_up(pid, 20),
    Fault.SLOW: _slow_down,
    Fault.FULL_DISK: _fill_disk,
}


def _attempt(coordinator: int) -> int:
    """The attempt's number, as common/processes/membership.py has it."""
    return int(psutil.Process(coordinator).create_time() * 1000)


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
