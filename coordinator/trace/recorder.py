"""Records some ticks of a run, and writes them down as a trace (docs/watching.md).

consumes   the wish, between two phases; how far the training is, every tick
produces   RUN/trace.json.gz, written by a thread; the word that it is there, or why not
waits for  nothing: the stages record by themselves, and the thread asks them when the last tick's frames have been sent
"""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.config.settings import Config
from common.errors import SidewaysError
from common.messages.stage_calls import Stages
from common.run_registry.records import Answer, plain
from common.telemetry.spans import Kind, Point, Spans, clock
from coordinator.trace.chrome_format import Clock, Recording, write
from coordinator.trace.copy import TRACE
from coordinator.video.feeder import Feeder
from coordinator.video.targets import Step, StepStream

_ROUNDS = 8  # of asking for a clock
_EACH = 4  # spans of a tick in the coordinator

TraceDone = Callable[[Answer], None]


class TraceRecorder:
    """One recording at a time."""

    def __init__(self, run: Path, config: Config, stages: Stages, course: StepStream, feeder: Feeder) -> None:
        self._run, self._config, self._stages = run, config, stages
        self._course, self._feeder = course, feeder
        self._now: _Recorder | None = None
        self._thread: threading.Thread | None = None
        self._answer = _lost("nothing was recorded")

    def begin(self, tick: int, ticks: int, planned: int, told: TraceDone) -> str:
        """Record `ticks` ticks soon after `tick`, before which every stage rests. `told` hears what came of it, once.

        Returns what will be recorded. Raises SidewaysError if that cannot be.
        """
        if self._now is not None:
            raise SidewaysError(f"it is recording {self._now} already: ask again after that")
        first = tick + 2 * self._config.stages  # by then the stages are in step again, and the pipeline is full
        if first >= planned:
            raise SidewaysError(f"it has only {planned - tick} ticks left, too few to trace any")
        clocks = [self._clock(stage) for stage in range(self._config.stages)]
        self._stages.trace(first, ticks)
        self._now = _Recorder(first, ticks, clocks, told)
        self._now.attend(tick, self._course, self._feeder)
        return str(self._now)

    def look(self, tick: int) -> None:
        """Frames before `tick` have been sent: if those are all, write them down; if that is done, tell it."""
        now = self._now
        if now is None:
            return
        if self._thread is None and tick >= now.end:
            self._start(now, self._config.network.deadline)
        elif self._thread is not None and not self._thread.is_alive():
            self._tell(now)

    def finish(self, seconds: float) -> None:
        """The run ends: write what there is, within so many seconds."""
        now = self._now
        if now is not None:
            (self._thread or self._start(now, 0.0)).join(seconds)
            self._tell(now)

    def _start(self, now: "_Recorder", patience: float) -> threading.Thread:
        now.spans.leave()
        self._answer = _lost("writing it took too long")
        self._thread = threading.Thread(target=self._write, args=(now, patience), name="trace", daemon=True)
        self._thread.start()
        return self._thread

    def _tell(self, now: "_Recorder") -> None:
        self._now = self._thread = None
        now.told(self._answer)

    def _write(self, now: "_Recorder", patience: float) -> None:
        try:
            self._answer = Answer(state="done", text=plain(self._gather(now, patience)))
        except Exception as error:  # whatever it is, it must be told, and only the trace is lost
            self._answer = _lost(str(error) or type(error).__name__)

    def _gather(self, now: "_Recorder", patience: float) -> str:
        stages, path = self._stages.traced(patience).answers(), self._run / TRACE
        clocks = [(before, self._clock(stage)) for stage, before in enumerate(now.clocks)]
        own, name = now.spans.rows(), self._run.name
        recording = Recording(name, self._config.algorithm, now.first, now.ticks, own, stages, clocks)
        if not recording.ticks:
            raise SidewaysError(f"the run ended before tick {now.first}, the first to be recorded")
        write(recording, path)
        short = f"; the run ended before the other {now.ticks - recording.ticks}" * (recording.ticks < now.ticks)
        done = f"{recording.ticks} ticks from tick {now.first} on are in {path}{short}"
        return f"{done}; https://ui.perfetto.dev shows them"

    def _clock(self, stage: int) -> Clock:
        return measure(partial(self._stages.clock, stage))


def _lost(reason: str) -> Answer:
    return Answer(state="refused", text=plain(f"the trace is lost: {reason}"))


def measure(ask: Callable[[], int]) -> Clock:
    """Another clock against this one, by how long it takes to ask: the quickest answer tells most."""
    readings = []
    for _ in range(_ROUNDS):
        start, other, end = clock(), ask(), clock()
        middle = (start + end) // 2
        readings.append(Clock(middle, other - middle, (end - start + 1) // 2))
    return min(readings, key=lambda reading: reading.uncertainty)


class _Recorder:
    """What is being recorded, and the coordinator's own part of it."""

    def __init__(self, first: int, ticks: int, clocks: list[Clock], told: TraceDone) -> None:
        self.first, self.ticks, self.end = first, ticks, first + ticks
        self.clocks, self.told = clocks, told
        self.spans = Spans(ticks, _EACH)

    def __str__(self) -> str:
        return f"ticks {self.first} to {self.end - 1}"

    def attend(self, tick: int, course: StepStream, feeder: Feeder) -> None:
        """From before frame `tick` on, listen to what reads the frames and what sends them."""
        self.spans.tick = tick
        self._read, self._send = course.next, feeder.push
        self.spans.replace(Point(course, "next", Kind.READ), self._next)
        self.spans.replace(Point(feeder, "push", Kind.FEED), self._push)

    def _next(self) -> Step | None:
        start = clock()
        step = self._read()
        self._note(Kind.READ, start)
        return step

    def _push(self, phase: int, frame: int, step: Step) -> None:
        start = clock()
        self._send(phase, frame, step)
        if phase == 0:  # and no evaluation
            self._note(Kind.FEED, start)
            self.spans.tick = frame + 1

    def _note(self, kind: Kind, start: int) -> None:
        if self.first <= self.spans.tick < self.end:
            self.spans.note(kind, start)
