"""Passes the events of a run on to all its listeners."""

from collections.abc import Sequence
from typing import Any

from common.partition.balance import BlockCost
from common.run_registry.records import State
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent


class Broadcast(Listener):
    """A listener that passes every event on to others, in the order in which they were added."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """Pass events on to `listener` too from now on."""
        self._listeners.append(listener)

    def split(self, blocks: Sequence[str], split: Sequence[int]) -> None:
        for listener in self._listeners:
            listener.split(blocks, split)

    def measured(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        for listener in self._listeners:
            listener.measured(costs, split)

    def resumed(self, tick: int, evaluated: bool) -> None:
        for listener in self._listeners:
            listener.resumed(tick, evaluated)

    def state(self, state: State, message: str, tick: int) -> None:
        for listener in self._listeners:
            listener.state(state, message, tick)

    def progress(self, event: ProgressEvent) -> None:
        for listener in self._listeners:
            listener.progress(event)

    def replica_progress(self, event: ProgressEvent) -> None:
        for listener in self._listeners:
            listener.replica_progress(event)

    def evaluated(self, event: EvaluationEvent) -> None:
        for listener in self._listeners:
            listener.evaluated(event)

    def probed(self, found: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener.probed(found)

    def rate_changed(self, tick: int, rate: float) -> None:
        for listener in self._listeners:
            listener.rate_changed(tick, rate)

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        for listener in self._listeners:
            listener.restarted(tick, restarts, seconds)

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        for listener in self._listeners:
            listener.healed(tick, lost)

    def close(self, state: State, message: str, tick: int) -> None:
        """The run has ended. Listeners are closed in reverse order, so that the terminal is closed last."""
        for listener in reversed(self._listeners):
            listener.close(state, message, tick)
