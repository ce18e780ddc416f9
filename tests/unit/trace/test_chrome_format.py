"""Traces in Chrome's format: slices, transfers and arrows, with one clock."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from common.rule.schedule import Schedule
from common.telemetry.spans import Kind
from coordinator.trace.chrome_format import Recording
from coordinator.trace.clocks import Clock
from tests.support.traces import FIRST, SAME, STAGES, TICK, TICKS, check, recording, slices, spans_of, written


def test_a_trace_has_every_slice_transfer_and_arrow(tmp_path: Path) -> None:
    trace = written(recording(), tmp_path)
    check(trace, FIRST, TICKS)
    forward = [e["args"] for e in slices(trace)[3] if e["name"] == "forward"]
    backward = [e["args"] for e in slices(trace)[2] if e["name"] == "backward"]
    assert forward[0] == {"tick": FIRST, "frame": Schedule(STAGES).frame(1, FIRST)}
    assert backward[0] == {"tick": FIRST, "frame": Schedule(STAGES).gradient(0, FIRST)}
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


def test_arrows_go_forward_where_the_coordinator_was_held_up_after_it_had_fed(tmp_path: Path) -> None:
    """As on busy cores: the stage has begun with the frame, and the coordinator has not returned from feeding it."""
    fed = [(Kind.FEED, tick, tick * TICK, tick * TICK + TICK - 5000) for tick in range(FIRST, FIRST + TICKS)]
    check(written(replace(recording(), coordinator=spans_of(*fed)), tmp_path), FIRST, TICKS)


def test_readers_have_rows_and_begin_the_arrows(tmp_path: Path) -> None:
    """The second reader's clock is ahead; the coordinator only lets them feed."""
    ahead = 5 * TICK
    rows = [feeding(Kind.READ, 0, -2500) + feeding(Kind.FEED, 0, 0), feeding(Kind.READ, ahead, 0)]
    rows[1] += feeding(Kind.FEED, ahead, 3000)
    clocks = [SAME, (Clock(0, ahead, 50), Clock(FIRST * TICK, ahead, 50))]
    readers = [spans_of(*own) for own in rows]
    trace = written(replace(recording(), readers=readers, reader_clocks=clocks), tmp_path)
    check(trace, FIRST, TICKS)
    assert [clock.get("reader") for clock in trace["otherData"]["clocks"]] == [None] * STAGES + [0, 1]
    first, second = (slices(trace)[STAGES + 2 + reader][0]["ts"] for reader in range(2))
    assert second - first == 2.5  # µs


def feeding(kind: Kind, ahead: int, later: int) -> list[tuple[int, int, int, int]]:
    """A span of 2 µs for every frame, three ticks before stage 0 works on it."""
    starts = {tick: (tick - 3) * TICK + ahead + later for tick in range(FIRST, FIRST + TICKS)}
    return [(kind, tick, start, start + 2000) for tick, start in starts.items()]


def test_clocks_of_several_hosts_are_aligned(tmp_path: Path) -> None:
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
