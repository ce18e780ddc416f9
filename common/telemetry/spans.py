"""Records when what happened in a process, for a trace (docs/watching.md).

What is to be recorded are calls of methods. While somebody records, the methods of those objects, and of no others, are
replaced by ones that note two clocks; before and after there is nothing of it in the way, not even a comparison.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

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
    SETTLE = 12  # the end of a phase; without overlapping transfers, of a tick
    REPORT = 13
    READ = 14  # in the coordinator: the next frame batch
    FEED = 15  # in the coordinator: giving it to ZeroMQ, and waiting for room there


_BETWEEN = (Kind.SETTLE, Kind.REPORT)


@dataclass(frozen=True)
class Point:
    """A method whose calls are spans of a kind."""

    owner: object
    method: str
    kind: Kind


def clock() -> int:
    """ns, from an origin that the processes of one host share."""
    return time.perf_counter_ns()


class Spans:
    """Memory for the spans of a number of ticks, allocated once.

    Attributes:
        tick: which the spans are of.
        inside: a tick goes on; else only what belongs between two is a span (evaluations use the same objects).
    """

    def __init__(self, ticks: int, each: int) -> None:
        """`each`: the most spans of a tick; more are left out."""
        self.tick, self.inside = 0, True
        self._most = ticks * each
        self._memory = bytearray(self._most * _FORM.size)
        self._count = 0
        self._replaced: list[Point] = []

    def note(self, kind: Kind, start: int) -> None:
        """Something that began at `start` is over."""
        if self._count < self._most:
            _FORM.pack_into(self._memory, self._count * _FORM.size, kind, self.tick, start, time.perf_counter_ns())
            self._count += 1  # last: another thread may read

    def record(self, point: Point) -> None:
        """From now on every call is a span."""
        self.replace(point, self._recorded(getattr(point.owner, point.method), point.kind))

    def replace(self, point: Point, method: Callable[..., Any]) -> None:
        """Let `method` stand for the one that is there, until `leave`."""
        setattr(point.owner, point.method, method)
        self._replaced.append(point)

    def leave(self) -> None:
        """Everything is as it was."""
        for point in self._replaced:
            delattr(point.owner, point.method)  # the class has the method itself
        self._replaced.clear()

    def rows(self) -> Rows:
        """A copy of what was noted so far."""
        return np.frombuffer(self._memory, np.int64, self._count * 4).reshape(-1, 4).copy()

    def _recorded(self, plain: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        def recorded(*given: Any, **named: Any) -> Any:
            start = time.perf_counter_ns()
            try:
                return plain(*given, **named)
            finally:
                if self.inside or kind in _BETWEEN:
                    self.note(kind, start)

        return recorded
