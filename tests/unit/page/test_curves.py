"""The page's curves."""

import pytest

from coordinator.page.curves import Series


def test_a_curve_stays_short_and_averages_its_points() -> None:
    for count in (0, 1, 7, 8, 9, 63, 1000):
        curve = Series(8)
        for tick in range(count):
            curve.add(tick, float(tick))
            points = curve.points()
            assert len(points) <= 8
            assert points[-1][0] == tick
            assert points == sorted(points)
        points = curve.points()
        assert len(points) >= min(count, 4)
        starts = [0, *(tick + 1 for tick, _ in points)][: len(points)]
        for (tick, value), start in zip(points, starts, strict=True):
            assert value == pytest.approx((start + tick) / 2)  # the mean of all values since the previous point
