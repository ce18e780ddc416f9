"""The clocks of other processes."""

import time

import numpy as np

from coordinator.trace.clocks import Clock, at_one_clock, measure


def test_the_clock_offset_is_measured() -> None:
    clock = measure(lambda: time.perf_counter_ns() + 5_000_000_000)
    assert abs(clock.offset - 5_000_000_000) <= clock.uncertainty
    assert not clock.same
    assert measure(time.perf_counter_ns).same


def test_spans_are_converted_as_their_clock_drifts() -> None:
    rows = np.array([[1, 7, 1000, 1100], [2, 7, 1500, 2000]])
    assert at_one_clock(rows, (Clock(1000, 90, 5), Clock(2000, 190, 5))).tolist() == [
        [1, 7, 910, 1000],
        [2, 7, 1360, 1810],
    ]
    assert at_one_clock(rows, (Clock(1000, 4, 5), Clock(2000, -5, 5))) is rows
