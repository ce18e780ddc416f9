"""Passes on what happens in a run to all that watch it."""

from collections.abc import Sequence
from typing import Any

from common.partition.balance import BlockCost
from common.run_registry.records import State
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent


class Broadcast(Listener):
    """A listener that passes everything on, in the order in which listeners were added."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """From now on pass events on to `listener`, too."""
        self._listeners.append(listener)

    def split(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """The blocks, what they cost, and how many each stage has."""
        for listener in self._listeners:
            listener.split(costs, split)

    def resumed(self, tick: int) -> None:
        """The run goes on from a checkpoint at `tick`."""
        for listener in self._listeners:
            listener.resumed(tick)

    def state(self, state: State, message: str, tick: int) -> None:
        """What the run does from now on."""
        for listener in self._listeners:
            listener.state(state, message, tick)

    def progress(self, event: ProgressEvent) -> None:
        """A stage has reported."""
        for listener in self._listeners:
            listener.progress(event)

    def evaluated(self, event: EvaluationEvent) -> None:
        """The validation clips were evaluated."""
        for listener in self._listeners:
            listener.evaluated(event)

    def probed(self, found: dict[str, Any]) -> None:
        """A gradient probe."""
        for listener in self._listeners:
            listener.probed(found)

    def rate_changed(self, tick: int, rate: float) -> None:
        """optimiser.lr was set."""
        for listener in self._listeners:
            listener.rate_changed(tick, rate)

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        """The training goes on after a process was lost."""
        for listener in self._listeners:
            listener.restarted(tick, restarts, seconds)

    def close(self, state: State, message: str, tick: int) -> None:
        """The run has ended. Listeners are closed in reverse order, so that the terminal lasts longest."""
        for listener in reversed(self._listeners):
            listener.close(state, message, tick)
