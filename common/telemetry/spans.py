"""How long a process spends on each kind of work, and, while a trace is recorded, when (docs/watching.md).

One WorkClock is the only instrument on a tick's path: reports, Prometheus and traces all read it. A span costs two
readings of the clock and an addition; only while ticks are recorded is it written down as well.
"""

import struct
import time
from collections.abc import Iterable
from enum import IntEnum
from threading import Event

import numpy as np
from numpy.typing import NDArray

_FORM = struct.Struct("4q")

Rows = NDArray[np.int64]  # [spans, 4]: kind, tick, start, end; ns of this host's clock, in the order of their ends


class Kind(IntEnum):
    """What a span of time was spent on."""

    TICK = 0
    FORWARD = 1
    BACKWARD = 2
    UPDATE = 3
    WAIT_ACTIVATION = 4  # until it is here
    WAIT_GRADIENT = 5
    SEND_ACTIVATION = 6  # packing it, and what may have to be waited for before; it travels afterwards
    SEND_GRADIENT = 7
    WAIT_ACTIVATION_SENT = 8
    WAIT_GRADIENT_SENT = 9
    WAIT_FRAMES = 10  # the coordinator's
    WAIT_TARGETS = 11
    SETTLE = 12  # the end of a phase: until nothing is in flight
    REPORT = 13
    READ = 14  # in the coordinator: the next frame batch
    FEED = 15  # in the coordinator: giving it to ZeroMQ, and waiting for room there


COMPUTE = (Kind.FORWARD, Kind.BACKWARD, Kind.UPDATE)
RECEIVE_WAIT = (Kind.WAIT_ACTIVATION, Kind.WAIT_GRADIENT)
SEND_WAIT = (Kind.WAIT_ACTIVATION_SENT, Kind.WAIT_GRADIENT_SENT)
DATA_WAIT = (Kind.WAIT_FRAMES, Kind.WAIT_TARGETS)


def clock() -> int:
    """ns, from an origin that the processes of one host share."""
    return time.perf_counter_ns()


class Spans:
    """Memory for the spans of ticks first … first + ticks - 1, allocated once.

    Attributes:
        done: set after the last tick.
    """

    def __init__(self, first: int, ticks: int, each: int) -> None:
        """`each`: the most spans of a tick; more are left out."""
        self.first, self.last = first, first + ticks - 1
        self.done = Event()
        self._most = ticks * each
        self._memory = bytearray(self._most * _FORM.size)
        self._count = 0

    def note(self, kind: int, tick: int, start: int, end: int) -> None:
        """One span, in ns."""
        if self._count < self._most:
            _FORM.pack_into(self._memory, self._count * _FORM.size, kind, tick, start, end)
            self._count += 1  # last: another thread may read

    def rows(self) -> Rows:
        """A copy of what was noted so far."""
        return np.frombuffer(self._memory, np.int64, self._count * 4).reshape(-1, 4).copy()


class WorkClock:
    """Adds up the time of each kind of work, and records the spans of some ticks when asked to."""

    def __init__(self) -> None:
        self._sums = [0] * len(Kind)  # ns
        self._tick, self._began = -1, 0
        self._asked: Spans | None = None  # whose ticks are still to come, or are going on
        self._recorded: Spans | None = None  # the same, in its ticks alone

    def record(self, spans: Spans) -> None:
        """Write down the spans of these ticks, all of which are to come. An earlier recording ends."""
        self.stop_recording()
        self._asked = spans

    def stop_recording(self) -> None:
        """Write nothing more down."""
        if self._asked is not None:
            self._asked.done.set()
        self._asked = self._recorded = None

    def add(self, kind: int, start: int) -> None:
        """Work that began at `start`, by `clock`, is done."""
        end = time.perf_counter_ns()
        self._sums[kind] += end - start
        if self._recorded is not None:
            self._recorded.note(kind, self._tick, start, end)

    def begin_tick(self, tick: int) -> None:
        """What is added from here on belongs to `tick`."""
        asked = self._asked
        if asked is None:
            return
        if tick > asked.last:
            self.stop_recording()
        elif tick >= asked.first:
            self._recorded = asked
        self._tick, self._began = tick, time.perf_counter_ns()

    def end_tick(self) -> None:
        """The tick is over; what is added before the next one still belongs to it."""
        if self._recorded is not None:
            self._recorded.note(Kind.TICK, self._tick, self._began, time.perf_counter_ns())

    def end_phase(self) -> None:
        """No tick follows for now: what is added until then is in no recording."""
        self._recorded = None
        if self._asked is not None and self._tick >= self._asked.last:
            self.stop_recording()

    def seconds(self, kinds: Iterable[Kind]) -> float:
        """Spent on these kinds of work since `clear`."""
        return sum(self._sums[kind] for kind in kinds) * 1e-9

    def clear(self) -> None:
        """Zero the sums."""
        self._sums[:] = [0] * len(Kind)
