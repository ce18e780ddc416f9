"""What was measured so far, thin enough to be drawn: curves of bounded length, and the last restarts."""

import json
from collections import deque
from pathlib import Path
from typing import Any

_POINTS, _RESTARTS = 500, 20
_CURVES = ("loss", "accuracy", "val_top1", "val_mse")


class Series:
    """A figure over ticks, in at most `most` points: the more there were, the more of them a point is the mean of."""

    def __init__(self, most: int = _POINTS) -> None:
        self._most, self._each = most - 1, 1  # the last point is that of the unfinished group
        self._points: list[tuple[int, float]] = []
        self._group: list[tuple[int, float]] = []

    def add(self, tick: int, value: float) -> None:
        """A point; ticks rise."""
        self._group.append((tick, value))
        if len(self._group) < self._each:
            return
        self._points.append(_mean(self._group))
        self._group = []
        if len(self._points) >= self._most:
            whole = len(self._points) // 2 * 2
            self._group = self._points[whole:] * self._each  # an odd one out stands for that many
            self._points = [_mean(self._points[at : at + 2]) for at in range(0, whole, 2)]
            self._each *= 2

    def points(self) -> list[tuple[int, float]]:
        """(tick, value), each tick the last of those that the value is the mean of."""
        return [*self._points, _mean(self._group)] if self._group else list(self._points)


def _mean(points: list[tuple[int, float]]) -> tuple[int, float]:
    return points[-1][0], sum(value for _, value in points) / len(points)


class MetricHistory:
    """Of a run. Attributes: restarts, as metrics.jsonl has them."""

    def __init__(self) -> None:
        self._curves = {name: Series() for name in _CURVES}
        self.restarts: deque[dict[str, Any]] = deque(maxlen=_RESTARTS)

    def add(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        if line["kind"] == "restart":
            self.restarts.append(line)
        if line["kind"] in ("progress", "evaluation"):
            for name in self._curves.keys() & line.keys():
                if line[name] is not None:
                    self._curves[name].add(line["tick"], line[name])

    def replay(self, metrics: Path) -> None:
        """All lines of a file that an earlier attempt left. Raises OSError."""
        with open(metrics, encoding="utf-8") as lines:
            for line in lines:
                self.add(json.loads(line))

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """By name: points (tick, value)."""
        return {
            name: [(tick, float(f"{value:.6g}")) for tick, value in curve.points()]
            for name, curve in self._curves.items()
        }
