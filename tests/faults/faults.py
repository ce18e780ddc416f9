"""Faults injected into real runs: into processes by signals, into sockets by messages."""

import enum
import os
import re
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

_GREETING = b"\xff"  # the first byte that a ZeroMQ listener sends to every client


class Fault(enum.Enum):
    """A fault. Cut, slow and lossy links between hosts are in network.py, as they need network namespaces."""

    KILLED = enum.auto()  # kill -9
    STALLED = enum.auto()  # SIGSTOP for longer than the deadline
    HELD_UP = enum.auto()  # SIGSTOP for a moment
    SLOW = enum.auto()  # runs only a tenth of the time for a while
    GARBAGE = enum.auto()  # a ZeroMQ message that is not msgpack
    TRUNCATED = enum.auto()  # a valid envelope with half of the frames
    MISSHAPEN = enum.auto()  # frames of another size
    REPEATED = enum.auto()  # a valid message with a frame number that has been sent before
    POINTED = enum.auto()  # such a message with its frames in a slot of shared memory
    FLOOD = enum.auto()  # a message above the size limit
    LATE = enum.auto()  # frames from the coordinator of an earlier attempt
    FULL_DISK = enum.auto()  # a stage's files cannot grow while checkpoints are written
    REDIS_DOWN = enum.auto()  # SIGSTOP for 20 s
    NAN = enum.auto()  # a NaN loss, by a far too high learning rate; needs report.redis

    @property
    def restarts(self) -> bool:
        """Whether the run restarts from its last checkpoint."""
        passing = (Fault.HELD_UP, Fault.SLOW, Fault.LATE, Fault.FULL_DISK, Fault.REDIS_DOWN)
        return self not in passing and not self.ends

    @property
    def ends(self) -> bool:
        """Whether it ends the run, if recovery.divergence is "stop"."""
        return self is Fault.NAN

    def inject(self, run: Background, who: str) -> None:
        """Inject the fault into a process of a run: "coordinator", "stage0", "redis" …"""
        members = run.members()
        if who == "decoder":
            members[who] = run.decoder()
        if self is Fault.NAN:
            done = sideways("set", "it", "lr=1e30", cwd=run.folder)
            assert done.returncode == 0, done.stderr
        elif self in _TO_A_PROCESS:
            _TO_A_PROCESS[self](members[who])
        else:
            attempt = _attempt(members["coordinator"]) - (self is Fault.LATE)
            for message in self._messages(attempt, 8, 3 * 32 * 32):
                _send(_listeners(members[who]), message)

    def expected_output(self, who: str) -> str:
        """A pattern that the run's output must match."""
        if who == "decoder":
            return ""  # it is replaced without a word
        named = "the coordinator" if who == "coordinator" else re.sub("(stage|reader)", r"\1 ", who)
        return {
            Fault.KILLED: rf"{named}.* was killed by SIGKILL|{named}.* (is gone|connection)|the coordinator is gone",
            Fault.STALLED: r"for \d+ s|was killed by SIGKILL",
            Fault.GARBAGE: "is another program sending",
            Fault.TRUNCATED: r"stage 0, tick \d+: received message parts of .* bytes, expected an envelope",
            Fault.MISSHAPEN: r"stage 0, tick \d+: received message parts of .* bytes, expected an envelope",
            Fault.REPEATED: r"stage 0, tick \d+: received frame 3 of phase 0, expected frame \d+ of phase \d+",
            Fault.POINTED: r"stage 0, tick \d+: received frame 3 of phase 0, expected frame \d+ of phase \d+",
            Fault.FLOOD: "a stage worker disconnected without an error",
            Fault.FULL_DISK: "the checkpoint of tick .* could not be saved: .*(File too large|disk is probably full)",
            Fault.NAN: "the training has diverged, the loss is .* try a smaller optimiser.lr",
        }.get(self, "")  # other faults end no attempt and are not reported

    def _messages(self, attempt: int, rows: int, frame: int) -> list[list[bytes]]:
        """The multipart messages to send, for batches of `rows` rows of `frame` bytes each."""
        ids = np.zeros(rows, np.int64)
        envelope = encode_frames(attempt, 0, 3, False, ids, ids)
        return {
            Fault.GARBAGE: [[b"\xc1" + os.urandom(40)]],
            Fault.TRUNCATED: [[envelope, bytes(rows * frame // 2)]],
            Fault.MISSHAPEN: [[envelope, bytes(rows * frame * 4)]],
            Fault.REPEATED: [[envelope, bytes(rows * frame)]],
            Fault.POINTED: [[encode_frames(attempt, 0, 3, False, ids, ids, place=(1, 0))]],
            Fault.FLOOD: [[bytes(1 << 26)]],
            Fault.LATE: [[envelope, bytes(size)] for size in (rows, rows * frame)],
        }[self]


def _hold_up(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # a Redis that does not answer is replaced
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
    """The number of the attempt, as in common/processes/membership.py."""
    return int(psutil.Process(coordinator).create_time() * 1000)


def _listeners(pid: int) -> list[int]:
    """The ports on which a process listens for ZeroMQ: those that send a greeting."""
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
    assert found, f"process {pid} listens on {ports}, but on none of them for ZeroMQ"
    return found


def _send(ports: list[int], parts: list[bytes]) -> None:
    with zmq.Context() as context:
        for port in ports:
            stranger: zmq.Socket[bytes] = context.socket(zmq.PUSH)
            stranger.setsockopt(zmq.LINGER, 2000)
            stranger.connect(f"tcp://127.0.0.1:{port}")
            stranger.send_multipart(parts)
            stranger.close()
