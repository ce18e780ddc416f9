"""Records some ticks of a run, and writes them down as a trace (docs/watching.md).

consumes   the request, between two phases; how far the training is, every tick
produces   RUN/trace.json.gz, written by a thread; the answer that it is there, or why not
waits for  nothing: the stages record by themselves, and the thread asks them when the last tick's frames have been sent
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.config.settings import Config
from common.errors import SidewaysError
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from common.run_registry.records import Answer, plain
from common.telemetry.spans import Spans, WorkClock, clock
from coordinator.trace.chrome_format import Clock, Recording, write
from coordinator.trace.copy import TRACE

_ROUNDS = 8  # of asking for a clock
_EACH = 4  # spans of a tick in the coordinator

TraceDone = Callable[[Answer], None]


@dataclass(frozen=True)
class _Request:
    """What is being recorded: ticks first … end - 1, the coordinator's own spans, and the stages' clocks before it."""

    first: int
    ticks: int
    clocks: list[Clock]
    spans: Spans
    done: TraceDone

    @property
    def end(self) -> int:
        return self.first + self.ticks

    def __str__(self) -> str:
        return f"ticks {self.first} to {self.end - 1}"


class TraceRecorder:
    """One recording at a time."""

    def __init__(self, run: Path, config: Config, stages: Stages, work: WorkClock) -> None:
        """`run`: its directory; `work`: the coordinator's own clock."""
        self._run, self._config, self._stages, self._work = run, config, stages, work
        self._now: _Request | None = None
        self._thread: threading.Thread | None = None
        self._answer = _lost("nothing was recorded")

    def begin(self, tick: int, ticks: int, planned: int, done: TraceDone) -> str:
        """Record `ticks` ticks soon after `tick`, before which every stage rests. `done` gets the answer, once.

        Returns what will be recorded. Raises SidewaysError if that cannot be.
        """
        if self._now is not None:
            raise SidewaysError(f"it is recording {self._now} already: ask again after that")
        first = tick + 2 * self._config.stages  # by then the stages are in step again, and the pipeline is full
        if first >= planned:
            raise SidewaysError(f"it has only {planned - tick} ticks left, too few to trace any")
        clocks = [self._clock(stage) for stage in range(self._config.stages)]
        self._stages.ask_all(StageCalls.trace, first, ticks)
        self._now = _Request(first, ticks, clocks, Spans(first, ticks, _EACH), done)
        self._work.record(self._now.spans)
        return str(self._now)

    def poll(self, tick: int) -> None:
        """Frames before `tick` have been sent: if those are all, write the trace; once it is written, answer."""
        now = self._now
        if now is None:
            return
        if self._thread is None and tick >= now.end:
            self._start(now, self._config.network.deadline)
        elif self._thread is not None and not self._thread.is_alive():
            self._finish(now)

    def finish(self, seconds: float) -> None:
        """The run ends: write what there is, within so many seconds."""
        now = self._now
        if now is not None:
            (self._thread or self._start(now, 0.0)).join(seconds)
            self._finish(now)

    def _start(self, now: _Request, patience: float) -> threading.Thread:
        self._work.stop_recording()
        self._answer = _lost("writing it took too long")
        self._thread = threading.Thread(target=self._write, args=(now, patience), name="trace", daemon=True)
        self._thread.start()
        return self._thread

    def _finish(self, now: _Request) -> None:
        self._now = self._thread = None
        now.done(self._answer)

    def _write(self, now: _Request, patience: float) -> None:
        try:
            self._answer = Answer(state="done", text=plain(self._gather(now, patience)))
        except Exception as error:  # whatever it is, it must be reported, and only the trace is lost
            self._answer = _lost(str(error) or type(error).__name__)

    def _gather(self, now: _Request, patience: float) -> str:
        stages, path = self._stages.begin(StageCalls.trace_rows, patience).answers(), self._run / TRACE
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
        return measure(partial(self._stages.ask_now, stage, StageCalls.clock))


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
