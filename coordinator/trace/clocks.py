"""The clocks of other processes against the coordinator's."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.telemetry.spans import Rows, clock

_ROUNDS = 8  # clock readings per measurement


@dataclass(frozen=True)
class Clock:
    """Another process's clock against the coordinator's, in ns: at time `at`, it was `offset` ± `uncertainty` ahead."""

    at: int
    offset: int
    uncertainty: int

    @property
    def same(self) -> bool:
        """Whether it may be the same clock, as on one host: the offset is within the uncertainty."""
        return abs(self.offset) <= self.uncertainty


def measure(ask: Callable[[], int]) -> Clock:
    """Measure another process's clock against this one's.

    Takes several readings and keeps the one with the shortest round trip, as half of that bounds its error.

    Args:
        ask: reads the other clock, in ns.
    """
    readings = []
    for _ in range(_ROUNDS):
        start, other, end = clock(), ask(), clock()
        middle = (start + end) // 2
        readings.append(Clock(middle, other - middle, (end - start + 1) // 2))
    return min(readings, key=lambda reading: reading.uncertainty)


def at_one_clock(rows: Rows, clocks: tuple[Clock, Clock]) -> Rows:
    """Convert spans to the coordinator's clock. Assumes that the clocks drift apart linearly.

    Args:
        clocks: before and after the spans.
    """
    before, after = clocks
    if before.same and after.same:
        return rows
    offsets = np.interp(rows[:, 2:], [before.at, after.at], [before.offset, after.offset])
    return np.concatenate([rows[:, :2], rows[:, 2:] - np.rint(offsets).astype(np.int64)], axis=1)
