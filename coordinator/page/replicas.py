"""What each stage of each replica is doing, by its last report.

state      starting   it has not reported yet
           healing    it has lost updates, and has not done as many ticks since
           idle       it waits for most of each tick
           slow       the others wait for it: it sets the pace
           busy       none of these
"""

from typing import Any

from common.config.settings import Config

_IDLE = 0.5  # share of a tick spent waiting
_SLOW, _LIKE_IT = 0.2, 0.05  # by how much less than the mean a slow stage waits, and at most more than the least
_WAITS = ("receive_wait_ms", "send_wait_ms", "data_wait_ms")

Line = dict[str, Any]
Cell = dict[str, Any]


class ReplicaStates:
    """The last report of each stage of each replica."""

    def __init__(self, config: Config) -> None:
        self._replicas, self._stages = config.replicas, config.stages
        self._lines: dict[tuple[int, int], Line] = {}  # by replica and stage
        self._healed: dict[int, int] = {}  # by stage: the tick from which on it has done as many as it lost

    def add(self, line: Line) -> None:
        """Add a line of metrics.jsonl; only those about progress count."""
        if line["kind"] == "progress":
            self._lines[line.get("replica", 0), line["stage"]] = line

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        """The run went on at `tick`. `lost`: for stages that lost updates, those of how many ticks."""
        self._healed = {stage: tick + ticks for stage, ticks in lost.items()}

    def rows(self) -> list[list[Cell]]:
        """For each replica its stages: their `state`, `tick`, and which share of a tick each `waits`, and for what."""
        lines = self._lines.copy()
        waits = [_waiting(line) for line in lines.values()]
        least, mean = (min(waits), sum(waits) / len(waits)) if waits else (0.0, 0.0)
        pace = least + _LIKE_IT if mean - least >= _SLOW else -1.0  # those that wait less are slow
        places = [[(replica, stage) for stage in range(self._stages)] for replica in range(self._replicas)]
        return [[self._cell(place[1], lines.get(place), pace) for place in row] for row in places]

    def _cell(self, stage: int, line: Line | None, pace: float) -> Cell:
        if line is None:
            return {"state": "starting", "tick": None, "waits": None, "waits_for": None}
        waits, data = _waiting(line), line["data_wait_ms"]
        others = line["receive_wait_ms"] + line["send_wait_ms"]
        return {
            "state": self._state(stage, line["tick"], waits, pace),
            "tick": line["tick"],
            "waits": round(waits, 4),
            "waits_for": "frames" if data > others else "neighbours" if others else None,
        }

    def _state(self, stage: int, tick: int, waits: float, pace: float) -> str:
        if tick < self._healed.get(stage, 0):
            return "healing"
        if waits >= _IDLE:
            return "idle"
        return "slow" if waits <= pace else "busy"


def _waiting(line: Line) -> float:
    """The share of a tick that a stage waits."""
    return min(1.0, sum(float(line[name]) for name in _WAITS) / max(line["tick_ms"], 1e-9))
