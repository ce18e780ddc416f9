"""Commands to a running run: pause, resume, checkpoint, stop, set the learning rate, trace.

consumes   commands, from the Redis publisher's thread, in which `submit` runs
produces   answers; the commands are executed by the training's own thread between two phases
waits for  `resume` or a stop, while paused; the stages are between two phases then, so no deadline applies
"""

import queue
import signal
from collections.abc import Callable
from functools import partial
from typing import Protocol

from common.errors import PeerError, SidewaysError
from common.run_registry.records import Answer, Command
from coordinator.run.stop_request import StopRequest


class Steerable(Protocol):
    """The interface of a run that commands use, between two phases."""

    @property
    def over(self) -> bool:
        """Whether all ticks are done."""

    @property
    def tick(self) -> int:
        """The next tick."""

    def hold(self, paused: bool) -> None:
        """Note and report that the run is paused or resumed. Raises SidewaysError."""

    def idle(self) -> None:
        """Process reports for a moment, while paused."""

    def checkpoint_now(self) -> str:
        """Take a checkpoint. Returns a message with its location. Raises SidewaysError."""

    def set_rate(self, rate: float) -> str:
        """Change optimiser.lr. Returns a message with the change. Raises SidewaysError."""

    def record(self, ticks: int, done: Callable[[Answer], None]) -> None:
        """Trace `ticks` ticks; `done` is called with the answer afterwards. Raises SidewaysError."""


class CommandQueue:
    """Holds commands until the training is between two phases.

    Attributes:
        answer: called with each command's answer.
    """

    def __init__(self, stop: StopRequest) -> None:
        self.answer: Callable[[Command, Answer], None] = lambda command, answer: None
        self._stop = stop
        self._waiting: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stops: list[Command] = []
        self._recording: list[Command] = []
        self._paused = False

    def submit(self, command: Command) -> None:
        """Add a command; a stop takes effect at once, as SIGTERM does. May be called in any thread."""
        if command.do == "stop":
            self._stops.append(command)
            self._stop.final = True
            self._stop.note(signal.SIGTERM)
        else:
            self._waiting.put(command)

    @property
    def wanted(self) -> bool:
        """Whether commands are waiting, so that the phase should end soon."""
        return not self._waiting.empty()

    def hold(self, run: Steerable) -> None:
        """Pause the run, as it was paused when it was lost. Raises SidewaysError."""
        run.hold(True)
        self._paused = True
        self.execute(run)

    def execute(self, run: Steerable) -> None:
        """Execute the waiting commands; while paused, wait for more."""
        self._execute_waiting(run)
        while self._paused and not self._stop.signal:
            run.idle()
            self._execute_waiting(run)

    def close(self, text: str) -> None:
        """The run has ended: answer the remaining commands with `text`."""
        for command in self._stops:
            self.answer(command, Answer(state="done", text=text))
        for command in self._recording:
            self.answer(command, Answer(state="refused", text=text))
        while self.wanted:
            self.answer(self._waiting.get(), Answer(state="refused", text=text))

    def _execute_waiting(self, run: Steerable) -> None:
        while self.wanted and not self._stop.signal:
            command = self._waiting.get()
            try:
                if command.do == "trace":
                    self._record(command, run)  # answered when the trace is written
                    continue
                answer = Answer(state="done", text=self._execute_one(command, run))
            except PeerError as error:
                self.answer(command, Answer(state="refused", text=str(error)[:1000]))
                raise  # a process is lost, whatever the command was
            except SidewaysError as error:
                answer = Answer(state="refused", text=str(error)[:1000])
            self.answer(command, answer)

    def _record(self, command: Command, run: Steerable) -> None:
        if self._paused:
            raise SidewaysError("it is paused, so there are no ticks to trace: resume it first, by `sideways resume`")
        assert command.ticks is not None
        run.record(command.ticks, partial(self._recorded, command))
        self._recording.append(command)

    def _recorded(self, command: Command, answer: Answer) -> None:
        self._recording.remove(command)
        self.answer(command, answer)

    def _execute_one(self, command: Command, run: Steerable) -> str:
        if run.over:
            raise SidewaysError("the run has completed all its ticks")
        if command.do == "checkpoint":
            return run.checkpoint_now()
        if command.do == "set":
            assert command.lr is not None
            return run.set_rate(command.lr)
        pause = command.do == "pause"
        if pause == self._paused:
            return f"{'already paused' if pause else 'not paused'}, at tick {run.tick}"
        run.hold(pause)
        self._paused = pause
        return f"{'paused' if self._paused else 'resumed'} at tick {run.tick}"
