"""The metric history that the page draws: curves of bounded length, and the last restarts."""

import json
from collections import deque
from pathlib import Path
from typing import Any

_POINTS, _RESTARTS = 500, 20
_CURVES = ("loss", "accuracy", "val_top1", "val_mse")  # those that there always are
_MOST = 32  # curves
_NO_FIGURES = ("val_clips", "val_frames")


class Series:
    """A metric over ticks, kept in at most `most` points. When they are full, pairs of points are averaged."""

    def __init__(self, most: int = _POINTS) -> None:
        self._most, self._each = most - 1, 1  # one point is reserved for the unfinished group
        self._points: list[tuple[int, float]] = []
        self._group: list[tuple[int, float]] = []

    def add(self, tick: int, value: float) -> None:
        """Add a point. Ticks must not decrease."""
        self._group.append((tick, value))
        if len(self._group) < self._each:
            return
        self._points.append(_mean(self._group))
        self._group = []
        if len(self._points) >= self._most:
            whole = len(self._points) // 2 * 2
            self._group = self._points[whole:] * self._each  # an odd last point has the weight of `_each` values
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, whole, 2)]
            self._each *= 2

    def points(self) -> list[tuple[int, float]]:
        """The points (tick, value): a mean, and the last tick that it includes."""
        return [*self._points, _mean(self._group)] if self._group else list(self._points)


def _mean(points: list[tuple[int, float]]) -> tuple[int, float]:
    return points[-1][0], sum(value for _, value in points) / len(points)


class MetricHistory:
    """The metric history of a run.

    Attributes:
        restarts: the last `restart` lines of metrics.jsonl.
    """

    def __init__(self) -> None:
        self._curves = {name: Series() for name in _CURVES}
        self.restarts: deque[dict[str, Any]] = deque(maxlen=_RESTARTS)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of metrics.jsonl."""
        if line["kind"] == "restart":
            self.restarts.append(line)
        if line["kind"] == "evaluation":
            self._add_curves(line)
        if line["kind"] in ("progress", "evaluation"):
            for name in self._curves.keys() & line.keys():
                if line[name] is not None:
                    self._curves[name].add(line["tick"], line[name])

    def _add_curves(self, line: dict[str, Any]) -> None:
        for name in line:
            if name.startswith("val_") and name not in _NO_FIGURES and len(self._curves) < _MOST:
                self._curves.setdefault(name, Series())

    def replay(self, metrics: Path) -> None:
        """Add all lines of the metrics.jsonl of an earlier attempt. Raises OSError."""
        with open(metrics, encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if not line.get("replica"):  # as while the run trains
                    self.add(line)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The points (tick, value) of each curve, by name; values rounded to 6 significant digits."""
        return {
            name: [(tick, float(f"{value:.6g}")) for tick, value in curve.points()]
            for name, curve in self._curves.items()
        }
