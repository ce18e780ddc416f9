"""Time that a process spends on each kind of work, and the spans of a trace (docs/watching.md).

A WorkClock is the only instrumentation on the hot path of a tick: reports, Prometheus and traces all read it. A span
costs two clock readings and an addition; it is stored only while ticks are recorded.
"""

import struct
import time
from collections.abc import Iterable
from enum import IntEnum
from threading import Event

import numpy as np
from numpy.typing import NDArray

_FORM = struct.Struct("4q")

Rows = NDArray[np.int64]  # [spans, 4]: kind, tick, start, end; ns of this host's clock, ordered by end


class Kind(IntEnum):
    """Kind of work of a span."""

    TICK = 0
    FORWARD = 1
    BACKWARD = 2
    UPDATE = 3
    WAIT_ACTIVATION = 4  # until it has arrived
    WAIT_GRADIENT = 5
    SEND_ACTIVATION = 6  # packing, and waiting for a free buffer; the transfer itself comes after
    SEND_GRADIENT = 7
    WAIT_ACTIVATION_SENT = 8
    WAIT_GRADIENT_SENT = 9
    WAIT_FRAMES = 10  # from the coordinator or a reader
    WAIT_TARGETS = 11
    SETTLE = 12  # the end of a phase: until nothing is in flight
    REPORT = 13
    READ = 14  # in the coordinator or a reader: the next frame batch
    FEED = 15  # there: passing it on, and waiting for room
    WAIT_REPLICAS = 16  # within an update: for the gradients of the stage's other replicas


COMPUTE = (Kind.FORWARD, Kind.BACKWARD, Kind.UPDATE)
RECEIVE_WAIT = (Kind.WAIT_ACTIVATION, Kind.WAIT_GRADIENT, Kind.WAIT_REPLICAS)
SEND_WAIT = (Kind.WAIT_ACTIVATION_SENT, Kind.WAIT_GRADIENT_SENT)
DATA_WAIT = (Kind.WAIT_FRAMES, Kind.WAIT_TARGETS)


def clock() -> int:
    """Monotonic time in ns, with an origin shared by the processes of one host."""
    return time.perf_counter_ns()


class Spans:
    """Buffer for the spans of ticks first … first + ticks - 1, allocated once.

    Attributes:
        done: set after the last tick.
    """

    def __init__(self, first: int, ticks: int, each: int) -> None:
        """The buffer holds `ticks` × `each` spans; further ones are dropped."""
        self.first, self.last = first, first + ticks - 1
        self.done = Event()
        self._most = ticks * each
        self._memory = bytearray(self._most * _FORM.size)
        self._count = 0

    def note(self, kind: int, tick: int, start: int, end: int) -> None:
        """Store a span, `start` and `end` in ns."""
        if self._count < self._most:
            _FORM.pack_into(self._memory, self._count * _FORM.size, kind, tick, start, end)
            self._count += 1  # after the write: another thread may read

    def rows(self) -> Rows:
        """A copy of the spans stored so far, int64 [spans, 4]."""
        return np.frombuffer(self._memory, np.int64, self._count * 4).reshape(-1, 4).copy()


class WorkClock:
    """Sums the time of each kind of work, and records the spans of some ticks on request."""

    def __init__(self) -> None:
        self._sums = [0] * len(Kind)  # ns
        self._tick, self._began = -1, 0
        self._requested: Spans | None = None  # until their last tick
        self._recorded: Spans | None = None  # the same, but only during their ticks

    def record(self, spans: Spans) -> None:
        """Record the spans of these ticks, all of them in the future. Ends an earlier recording."""
        self.stop_recording()
        self._requested = spans

    def stop_recording(self) -> None:
        """End the recording, if there is one."""
        if self._requested is not None:
            self._requested.done.set()
        self._requested = self._recorded = None

    def add(self, kind: int, start: int) -> None:
        """Add work that started at `start` (from `clock`) and ends now."""
        end = time.perf_counter_ns()
        self._sums[kind] += end - start
        if self._recorded is not None:
            self._recorded.note(kind, self._tick, start, end)

    def begin_tick(self, tick: int) -> None:
        """Start a tick: spans added from here on belong to it."""
        requested = self._requested
        if requested is None:
            return
        if tick > requested.last:
            self.stop_recording()
        elif tick >= requested.first:
            self._recorded = requested
        self._tick, self._began = tick, time.perf_counter_ns()

    def end_tick(self) -> None:
        """End the tick. Spans added before the next one still belong to it."""
        if self._recorded is not None:
            self._recorded.note(Kind.TICK, self._tick, self._began, time.perf_counter_ns())

    def end_phase(self) -> None:
        """End the phase: spans added before the next tick are not recorded."""
        self._recorded = None
        if self._requested is not None and self._tick >= self._requested.last:
            self.stop_recording()

    def seconds(self, kinds: Iterable[Kind]) -> float:
        """Seconds spent on these kinds of work since `clear`."""
        return sum(self._sums[kind] for kind in kinds) * 1e-9

    def compute_seconds(self) -> float:
        """Seconds spent computing since `clear`: an update's wait for other replicas is not among them."""
        return self.seconds(COMPUTE) - self.seconds((Kind.WAIT_REPLICAS,))

    def clear(self) -> None:
        """Zero the sums."""
        self._sums[:] = [0] * len(Kind)
