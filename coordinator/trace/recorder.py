"""Records some ticks of a run and writes them as a trace (docs/watching.md).

consumes   the request, between two phases; the number of the current tick, every tick
produces   RUN/trace.json.gz, written by a thread; the answer to the request: where the trace is, or why there is none
waits for  nothing: the stages and the readers record by themselves, and once the last tick's frames are sent, a
           thread collects the spans from them
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
from common.telemetry.spans import Spans, WorkClock
from coordinator.trace.chrome_format import Recording, write
from coordinator.trace.clocks import Clock, measure
from coordinator.trace.copy import TRACE
from coordinator.trace.reader_spans import ReaderSpans

_EACH = 4  # maximum spans per tick in the coordinator

TraceDone = Callable[[Answer], None]


@dataclass(frozen=True)
class _Request:
    """The recording in progress: ticks first … end - 1.

    Attributes:
        clocks, reader_clocks: of each stage and each reader, measured before the recording.
        spans: the coordinator's own.
        done: called with the answer.
    """

    first: int
    ticks: int
    clocks: list[Clock]
    reader_clocks: list[Clock]
    spans: Spans
    done: TraceDone

    @property
    def end(self) -> int:
        return self.first + self.ticks

    def __str__(self) -> str:
        return f"ticks {self.first} to {self.end - 1}"


class TraceRecorder:
    """Records traces, one at a time."""

    def __init__(self, run: Path, config: Config, stages: Stages, work: WorkClock, readers: ReaderSpans) -> None:
        """`run`: the run directory; `work`: the coordinator's own WorkClock."""
        self._readers = readers
        self._run, self._config, self._stages, self._work = run, config, stages, work
        self._now: _Request | None = None
        self._thread: threading.Thread | None = None
        self._answer = _failed("nothing was recorded")

    def begin(self, tick: int, ticks: int, total_ticks: int, done: TraceDone) -> str:
        """Start to record `ticks` ticks, soon after `tick`. Call it between two phases, while all stages are idle.

        Args:
            tick: the next tick.
            ticks: number of ticks to record.
            total_ticks: ticks of the whole training.
            done: called once, with the answer.

        Returns:
            The ticks that will be recorded, as text.

        Raises:
            SidewaysError: a recording is in progress already, or too few ticks are left.
        """
        if self._now is not None:
            raise SidewaysError(f"it is already recording {self._now}: try again afterwards")
        first = tick + 2 * (self._config.ticks_to_top + 1)  # by then the pipeline is full and in its steady state
        if first >= total_ticks:
            raise SidewaysError(f"it has only {total_ticks - tick} ticks left, too few for a trace")
        clocks = [self._clock(stage) for stage in range(self._config.stages)]
        reader_clocks = self._readers.clocks()
        self._stages.call_all(StageCalls.trace, first, ticks)
        self._readers.record(first, ticks)
        self._now = _Request(first, ticks, clocks, reader_clocks, Spans(first, ticks, _EACH), done)
        self._work.record(self._now.spans)
        return str(self._now)

    def poll(self, tick: int) -> None:
        """Call it every tick: once all frames to be recorded are sent, writes the trace; once written, answers.

        Args:
            tick: frames before this tick have been sent.
        """
        now = self._now
        if now is None:
            return
        if self._thread is None and tick >= now.end:
            self._start(now, self._config.network.deadline)
        elif self._thread is not None and not self._thread.is_alive():
            self._finish(now)

    def finish(self, seconds: float) -> None:
        """The run ends: write what has been recorded, waiting at most `seconds`, and answer."""
        now = self._now
        if now is not None:
            (self._thread or self._start(now, 0.0)).join(seconds)
            self._finish(now)

    def _start(self, now: _Request, timeout: float) -> threading.Thread:
        self._work.stop_recording()
        self._answer = _failed("writing it took too long")
        self._thread = threading.Thread(target=self._write, args=(now, timeout), name="trace", daemon=True)
        self._thread.start()
        return self._thread

    def _finish(self, now: _Request) -> None:
        self._now = self._thread = None
        now.done(self._answer)

    def _write(self, now: _Request, timeout: float) -> None:
        try:
            self._answer = Answer(state="done", text=plain(self._gather(now, timeout)))
        except Exception as error:  # any failure must be reported, and costs only the trace
            self._answer = _failed(str(error) or type(error).__name__)

    def _gather(self, now: _Request, timeout: float) -> str:
        answers, path = self._stages.begin(StageCalls.trace_rows, timeout).answers(), self._run / TRACE
        stages = answers[: self._config.stages]  # the first replica's, which stand for all
        clocks = [(before, self._clock(stage)) for stage, before in enumerate(now.clocks)]
        readers, reader_clocks = self._readers.rows(), zip(now.reader_clocks, self._readers.clocks(), strict=True)
        recording = Recording(
            run=self._run.name,
            algorithm=self._config.algorithm,
            first=now.first,
            asked=now.ticks,
            coordinator=now.spans.rows(),
            stages=stages,
            clocks=clocks,
            edge_ticks=self._config.edge_ticks,
            readers=readers,
            reader_clocks=list(reader_clocks),
        )
        if not recording.ticks:
            raise SidewaysError(f"the run ended before tick {now.first}, the first to be recorded")
        write(recording, path)
        short = f"; the run ended before the other {now.ticks - recording.ticks}" * (recording.ticks < now.ticks)
        done = f"{recording.ticks} ticks from tick {now.first} on are in {path}{short}"
        return f"{done}; open it at https://ui.perfetto.dev"

    def _clock(self, stage: int) -> Clock:
        return measure(partial(self._stages.call_blocking, stage, StageCalls.clock))


def _failed(reason: str) -> Answer:
    return Answer(state="refused", text=plain(f"the trace is lost: {reason}"))
