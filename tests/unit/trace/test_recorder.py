"""Recording a trace: request, ticks and answer."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import SidewaysError
from common.messages.stage_calls import StageCalls
from common.run_registry.records import Answer
from common.telemetry.spans import Kind, WorkClock, clock
from coordinator.trace.reader_spans import ReaderSpans
from coordinator.trace.recorder import TraceRecorder
from tests.support.traces import FIRST, STAGES, TICKS, read, slices, stage_rows


class Answers(list[Answer]):
    """The answers to a request."""

    @property
    def text(self) -> str:
        (answer,) = self
        return f"{answer.state}: {answer.text}"


class Stages:
    """Stages that record `ticks` ticks of the requested ones."""

    def __init__(self, ticks: int = TICKS) -> None:
        self.requests: list[tuple[int, int]] = []
        self.ticks, self.broken = ticks, False

    def call_blocking(self, stage: int, call: object) -> int:
        assert call is StageCalls.clock
        return clock()

    def call_all(self, call: object, first: int, ticks: int) -> None:
        assert call is StageCalls.trace
        self.requests.append((first, ticks))

    def begin(self, call: object, seconds: float) -> Any:
        assert call is StageCalls.trace_rows
        if self.broken:
            raise SidewaysError("a stage is gone")
        rows = [stage_rows(stage) for stage in range(STAGES)]
        return SimpleNamespace(answers=lambda: [each[each[:, 1] < FIRST + self.ticks] for each in rows])


def recorder_of(folder: Path, stages: Stages, work: WorkClock) -> TraceRecorder:
    edges = {"edge_ticks": (), "ticks_to_top": STAGES - 1}
    network = SimpleNamespace(deadline=1.0)
    config = SimpleNamespace(stages=STAGES, algorithm="sideways", network=network, **edges)
    return TraceRecorder(folder, cast(Any, config), cast(Any, stages), work, ReaderSpans(0, 1.0))


def run_to(tick: int, recorder: TraceRecorder, work: WorkClock) -> None:
    """The coordinator's loop up to a tick, with two timed kinds of work."""
    for k in range(FIRST - 2 * STAGES, tick):
        work.begin_tick(k)
        for kind in (Kind.READ, Kind.FEED):
            work.add(kind, clock())
        recorder.poll(k + 1)
    work.end_phase()
    work.add(Kind.FEED, clock())  # of an evaluation


def test_a_trace_is_written_and_answered_once(tmp_path: Path) -> None:
    stages, work, answers = Stages(), WorkClock(), Answers()
    recorder = recorder_of(tmp_path, stages, work)
    assert recorder.begin(FIRST - 2 * STAGES, TICKS, 1000, answers.append) == "ticks 20 to 31"
    with pytest.raises(SidewaysError, match="already recording ticks 20 to 31"):
        recorder.begin(15, 10, 1000, answers.append)
    run_to(FIRST + TICKS, recorder, work)
    for thread in threading.enumerate():
        if thread.name == "trace":
            thread.join()
    recorder.poll(FIRST + TICKS + 1)
    recorder.finish(5)
    assert stages.requests == [(FIRST, TICKS)]
    assert answers.text.startswith(f"done: {TICKS} ticks from tick {FIRST} on are in {tmp_path}/trace.json.gz;")
    trace = read(tmp_path / "trace.json.gz")
    for name in ("read", "feed"):
        assert [e["args"]["frame"] for e in slices(trace)[1] if e["name"] == name] == [*range(FIRST, FIRST + TICKS)]
    recorder.begin(100, 10, 1000, answers.append)  # another recording is possible now


def test_a_run_that_ends_early_writes_the_ticks_so_far(tmp_path: Path) -> None:
    work, answers = WorkClock(), Answers()
    recorder = recorder_of(tmp_path, Stages(ticks=5), work)
    recorder.begin(FIRST - 2 * STAGES, TICKS, 1000, answers.append)
    run_to(FIRST + 5, recorder, work)
    recorder.finish(5)
    assert "5 ticks from tick 20 on" in answers.text
    assert "the run ended before the other 7" in answers.text
    assert read(tmp_path / "trace.json.gz")["otherData"]["ticks"] == 5


@pytest.mark.parametrize(("ticks", "broken", "reason"), [(0, False, "before tick 20"), (5, True, "a stage is gone")])
def test_a_lost_trace_is_answered_with_the_reason(tmp_path: Path, ticks: int, broken: bool, reason: str) -> None:
    stages, work, answers = Stages(ticks), WorkClock(), Answers()
    stages.broken = broken
    recorder = recorder_of(tmp_path, stages, work)
    recorder.begin(FIRST - 2 * STAGES, TICKS, 1000, answers.append)
    recorder.finish(5)
    assert answers.text.startswith("refused: the trace is lost: ")
    assert reason in answers.text
    assert list(tmp_path.iterdir()) == []


def test_a_recording_longer_than_the_rest_of_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="only 4 ticks left"):
        recorder_of(tmp_path, Stages(), WorkClock()).begin(96, 10, 100, Answers().append)
