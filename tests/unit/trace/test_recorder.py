"""Traces: what is recorded, and what is written of it."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from common.errors import ConfigError, SidewaysError
from common.rule.schedule import Schedule
from common.run_registry.records import Answer, Owner
from common.telemetry.spans import Kind, Point, Rows, Spans, clock
from coordinator.trace import copy as tracecopy
from coordinator.trace.chrome_format import Clock, Recording, write
from coordinator.trace.recorder import TraceRecorder, measure
from stage_worker.tracer import Tracer
from tests.support.traces import check, read, slices

STAGES, FIRST, TICKS = 3, 20, 12
TICK = 1_000_000  # ns
SAME = (Clock(0, 40, 50), Clock(1, -40, 50))


def spans_of(*spans: tuple[int, int, int, int]) -> Rows:
    return np.array(sorted(spans, key=lambda span: span[3]), np.int64)


def stage_rows(stage: int, ahead: int = 0) -> Rows:
    """A stage that does everything at the same moments of each tick, by a clock that is so far ahead."""
    kinds = [Kind.FORWARD, Kind.BACKWARD, Kind.UPDATE]
    if stage > 0:
        kinds = [Kind.WAIT_ACTIVATION, *kinds, Kind.SEND_GRADIENT]
    if stage < STAGES - 1:
        kinds = [*kinds, Kind.SEND_ACTIVATION, Kind.WAIT_GRADIENT]
    spans = []
    for tick in range(FIRST, FIRST + TICKS):
        start = ahead + tick * TICK
        spans.append((Kind.TICK, tick, start, start + TICK - 1000))
        for place, kind in enumerate(sorted(kinds)):
            spans.append((kind, tick, start + 10_000 + 90_000 * place, start + 90_000 * (place + 1)))
    return spans_of(*spans)


def recording(ahead: int = 0) -> Recording:
    fed = [(Kind.FEED, tick, (tick - 3) * TICK, (tick - 3) * TICK + 5000) for tick in range(FIRST, FIRST + TICKS)]
    stages = [stage_rows(stage, ahead * stage) for stage in range(STAGES)]
    return Recording("it", "sideways", FIRST, TICKS, spans_of(*fed), stages, [SAME] * STAGES)


def written(what: Recording, folder: Path) -> dict[str, Any]:
    write(what, folder / "trace.json.gz")
    return read(folder / "trace.json.gz")


def test_a_trace_has_every_slice_transfer_and_arrow(tmp_path: Path) -> None:
    trace = written(recording(), tmp_path)
    check(trace, FIRST, TICKS)
    forward = [e["args"] for e in slices(trace)[3] if e["name"] == "forward"]
    backward = [e["args"] for e in slices(trace)[2] if e["name"] == "backward"]
    assert forward[0] == {"tick": FIRST, "frame": Schedule(STAGES).frame(1, FIRST)}
    assert backward[0] == {"tick": FIRST, "frame": Schedule(STAGES).gradient(0, FIRST)}
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


def test_hosts_clocks_become_one(tmp_path: Path) -> None:
    other = recording(ahead=7 * TICK)
    ends = FIRST * TICK, (FIRST + TICKS) * TICK
    clocks = [tuple(Clock(end + 7 * TICK * stage, 7 * TICK * stage, 50) for end in ends) for stage in range(STAGES)]
    trace = written(replace(other, clocks=cast(Any, clocks)), tmp_path)
    assert trace["traceEvents"] == written(recording(), tmp_path)["traceEvents"]
    assert trace["otherData"]["clocks"][1] == {"stage": 1, "offset_us": [7000.0, 7000.0], "uncertainty_us": 0.05}


def test_exact_gradients_have_an_arrow_for_each_micro_batch(tmp_path: Path) -> None:
    spans = []
    for place, kind in enumerate([Kind.FORWARD, Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD]):
        spans.append((kind, FIRST, 1000 * place, 1000 * place + 500))
    rows = spans_of(*spans, (Kind.TICK, FIRST, 0, 5000))
    what = Recording("it", "gpipe", FIRST, 1, spans_of((Kind.FEED, FIRST, -900, -100)), [rows] * 2, [SAME] * 2)
    trace = written(what, tmp_path)
    ids = [event["id"] for event in trace["traceEvents"] if event["ph"] in "stf"]
    assert {name: ids.count(name) for name in ids} == {"20": 5, "20.1": 5}
    assert [e["args"]["micro_batch"] for e in slices(trace)[2] if e["name"] == "forward"] == [0, 1]


class Worker:
    """A loop of one stage that has nothing but ticks."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def tick(self, k: int) -> int:
        self.done.append(k)
        return k


def test_methods_are_replaced_only_while_it_records() -> None:
    worker, spans = Worker(), Spans(2, 1)
    spans.record(Point(worker, "tick", Kind.FORWARD))
    assert [worker.tick(k) for k in range(3)] == [0, 1, 2]
    spans.leave()
    assert worker.tick(3) == 3
    assert vars(worker) == {"done": [0, 1, 2, 3]}
    rows = spans.rows()
    assert rows[:, 0].tolist() == [Kind.FORWARD] * 2  # there is no room for more
    assert (rows[:, 2] <= rows[:, 3]).all()


def test_an_error_is_passed_on_and_recorded() -> None:
    class Failing:
        def tick(self) -> None:
            raise ValueError("it fails")

    worker, spans = Failing(), Spans(1, 4)
    spans.record(Point(worker, "tick", Kind.FORWARD))
    with pytest.raises(ValueError, match="it fails"):
        worker.tick()
    assert len(spans.rows()) == 1


def test_the_other_clock_is_found() -> None:
    clock = measure(lambda: time.perf_counter_ns() + 5_000_000_000)
    assert abs(clock.offset - 5_000_000_000) <= clock.uncertainty
    assert not clock.same
    assert measure(time.perf_counter_ns).same


class Told(list[Answer]):
    """What was told."""

    @property
    def text(self) -> str:
        (answer,) = self
        return f"{answer.state}: {answer.text}"


class Stages:
    """Stages that recorded all of it, or only some ticks."""

    def __init__(self, ticks: int = TICKS) -> None:
        self.asked: list[tuple[int, int]] = []
        self.ticks, self.broken = ticks, False

    def clock(self, stage: int) -> int:
        return clock()

    def trace(self, first: int, ticks: int) -> None:
        self.asked.append((first, ticks))

    def traced(self, seconds: float) -> Any:
        if self.broken:
            raise SidewaysError("a stage is gone")
        rows = [stage_rows(stage) for stage in range(STAGES)]
        return SimpleNamespace(answers=lambda: [each[each[:, 1] < FIRST + self.ticks] for each in rows])


class Pipe:
    """Frames that are read and sent."""

    def next(self) -> None: ...

    def push(self, phase: int, frame: int, step: object) -> None: ...


def tracing_of(folder: Path, stages: Stages, pipe: Any) -> TraceRecorder:
    config = SimpleNamespace(stages=STAGES, algorithm="sideways", network=SimpleNamespace(deadline=1.0))
    return TraceRecorder(folder, cast(Any, config), cast(Any, stages), pipe, pipe)


def run_to(tick: int, what: TraceRecorder, pipe: Any) -> None:
    for k in range(FIRST - 2 * STAGES, tick):
        pipe.next()
        pipe.push(0, k, None)
        pipe.push(1, k, None)  # an evaluation's
        what.look(k + 1)


def test_it_is_written_and_told_once(tmp_path: Path) -> None:
    stages, pipe, told = Stages(), Pipe(), Told()
    what = tracing_of(tmp_path, stages, pipe)
    assert what.begin(FIRST - 2 * STAGES, TICKS, 1000, told.append) == "ticks 20 to 31"
    with pytest.raises(SidewaysError, match="recording ticks 20 to 31 already"):
        what.begin(15, 10, 1000, told.append)
    run_to(FIRST + TICKS, what, pipe)
    assert vars(pipe) == {}
    for thread in threading.enumerate():
        if thread.name == "trace":
            thread.join()
    what.look(FIRST + TICKS + 1)
    what.finish(5)
    assert stages.asked == [(FIRST, TICKS)]
    assert told.text.startswith(f"done: {TICKS} ticks from tick {FIRST} on are in {tmp_path}/trace.json.gz;")
    trace = read(tmp_path / "trace.json.gz")
    for name in ("read", "feed"):
        assert [e["args"]["frame"] for e in slices(trace)[1] if e["name"] == name] == [*range(FIRST, FIRST + TICKS)]
    what.begin(100, 10, 1000, told.append)  # and another


def test_a_run_that_ends_before_has_the_ticks_that_there_were(tmp_path: Path) -> None:
    pipe, told = Pipe(), Told()
    what = tracing_of(tmp_path, Stages(ticks=5), pipe)
    what.begin(FIRST - 2 * STAGES, TICKS, 1000, told.append)
    run_to(FIRST + 5, what, pipe)
    what.finish(5)
    assert "5 ticks from tick 20 on" in told.text
    assert "the run ended before the other 7" in told.text
    assert read(tmp_path / "trace.json.gz")["otherData"]["ticks"] == 5


@pytest.mark.parametrize(("ticks", "broken", "reason"), [(0, False, "before tick 20"), (5, True, "a stage is gone")])
def test_a_trace_that_is_lost_is_told(tmp_path: Path, ticks: int, broken: bool, reason: str) -> None:
    stages, pipe, told = Stages(ticks), Pipe(), Told()
    stages.broken = broken
    what = tracing_of(tmp_path, stages, pipe)
    what.begin(FIRST - 2 * STAGES, TICKS, 1000, told.append)
    what.finish(5)
    assert told.text.startswith("refused: the trace is lost: ")
    assert reason in told.text
    assert list(tmp_path.iterdir()) == []


def test_too_few_ticks_are_left(tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="only 4 ticks left"):
        tracing_of(tmp_path, Stages(), Pipe()).begin(96, 10, 100, Told().append)


class Looping:
    """Its ticks call what is recorded; between two it settles, and something else calls what is recorded too."""

    def __init__(self) -> None:
        self.stage = SimpleNamespace(config=SimpleNamespace(parts=1))

    def tick(self, k: int) -> None:
        self.work()

    def work(self) -> None: ...

    def settle(self) -> None: ...

    def run(self, first: int, last: int) -> None:
        for k in range(first, last):
            self.tick(k)
            self.settle()
            self.work()


def test_a_stage_records_its_ticks_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Looping()
    found = [Point(loop, "work", Kind.FORWARD), Point(loop, "settle", Kind.SETTLE)]
    monkeypatch.setattr("stage_worker.tracer.points", lambda loop: found)
    recorder = Tracer(cast(Any, loop), 4, 3)
    loop.run(0, 6)
    assert len(recorder.rows(0)) == 6  # it is not done yet, and is not waited for
    loop.run(6, 9)
    rows = recorder.rows(60)
    expected = [
        (Kind.FORWARD, 4),
        (Kind.TICK, 4),
        (Kind.SETTLE, 4),
        (Kind.FORWARD, 5),
        (Kind.TICK, 5),
        (Kind.SETTLE, 5),
    ]
    assert [tuple(row) for row in rows[:, :2].tolist()] == [*expected, (Kind.FORWARD, 6), (Kind.TICK, 6)]
    assert vars(loop).keys() == {"stage"}


def test_a_copy_is_packed_or_not(tmp_path: Path) -> None:
    import socket

    (tmp_path / "run").mkdir()
    owner = Owner(host=socket.gethostname(), directory=str(tmp_path / "run"), pid=1)
    with pytest.raises(SidewaysError, match="cannot be copied"):
        tracecopy.copy(owner, tmp_path / "a.json")
    write(recording(), tmp_path / "run" / "trace.json.gz")
    for name in ("a.json", "b.json.gz"):
        tracecopy.check(tmp_path / name)
        tracecopy.copy(owner, tmp_path / name)
        check(read(tmp_path / name), FIRST, TICKS)
    with pytest.raises(SidewaysError, match="the trace is on elsewhere"):
        tracecopy.copy(Owner(host="elsewhere", directory="/run", pid=1), tmp_path / "c.json")
    for wrong in ("a.txt", "none/a.json"):
        with pytest.raises(ConfigError, match="--out"):
            tracecopy.check(tmp_path / wrong)
