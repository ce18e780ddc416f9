"""Recordings of a pipeline, and checks that every trace must pass."""

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.rule.schedule import Schedule
from common.telemetry.spans import Kind, Rows
from coordinator.trace.chrome_format import Recording, write
from coordinator.trace.clocks import Clock

Event = dict[str, Any]
WORK = ("tick", "forward", "backward", "update")


def read(path: Path) -> dict[str, Any]:
    """Read a trace file."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        return json.load(file)


def slices(trace: dict[str, Any]) -> dict[int, list[Event]]:
    """The slices by process, in the order of the file."""
    rows = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            rows[event["pid"]].append(event)
    return rows


def check(trace: dict[str, Any], first: int, ticks: int) -> None:
    """Check the slices, transfers and arrows of a Sideways run in which exactly these ticks were recorded."""
    about, rows = trace["otherData"], slices(trace)
    stages, readers = about["stages"], about["readers"]
    assert (about["first_tick"], about["ticks"]) == (first, ticks)
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    feeders = {stages + 2 + reader: f"reader {reader}" for reader in range(readers)}
    assert names == {1: "coordinator", **{stage + 2: f"stage {stage}" for stage in range(stages)}, **feeders}
    for row in rows.values():
        nested(row)
    for stage in range(stages):
        for name in WORK:
            assert [e["args"]["tick"] for e in rows[stage + 2] if e["name"] == name] == [*range(first, first + ticks)]
    for feeder in (1, *feeders):
        for name in ("read", "feed") if feeder > 1 else ("feed",):
            assert [e["args"]["frame"] for e in rows[feeder] if e["name"] == name] == [*range(first, first + ticks)]
    transfers(trace, stages, first, ticks)
    arrows(trace, rows, stages, first, ticks, min(feeders, default=1))


def nested(row: list[Event]) -> None:
    """Check that slices are ordered by start, and that each lies within the one in which it begins."""
    around: list[float] = []
    last = 0.0
    for event in row:
        start, end = event["ts"], event["ts"] + event["dur"]
        assert start >= last
        assert event["dur"] >= 0
        while around and around[-1] <= start + 1e-6:
            around.pop()
        assert not around or end <= around[-1] + 1e-6  # µs, rounded
        around.append(end)
        last = start


def transfers(trace: dict[str, Any], stages: int, first: int, ticks: int) -> None:
    """Check that each transfer begins and ends once, and that those of all ticks but the last are there."""
    begun, ended = (
        {e["id"]: e for e in trace["traceEvents"] if e["ph"] == phase and e["cat"] == "transfer"} for phase in "be"
    )
    assert begun.keys() == ended.keys()
    assert all(begun[key]["ts"] <= ended[key]["ts"] for key in begun)
    assert len(begun) == 2 * (stages - 1) * (ticks - 1)


def arrows(
    trace: dict[str, Any], rows: dict[int, list[Event]], stages: int, first: int, ticks: int, feeder: int
) -> None:
    """Check that each frame's arrow follows its forward passes up and its backward passes down the pipeline."""
    paths = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "stf":
            paths[event["id"]].append(event)
    schedule, whole = Schedule(stages), 0
    for frame, path in paths.items():
        assert [event["ph"] for event in path] == ["s", *"t" * (len(path) - 2), "f"]
        assert all(a["ts"] <= b["ts"] for a, b in pairwise(path))
        stops = [stop(rows, event) for event in path]
        expected = [(feeder, "feed", int(frame))]
        expected += [(stage + 2, "forward", int(frame) + schedule.first_input(stage)) for stage in range(stages)]
        expected += [
            (stage + 2, "backward", int(frame) + schedule.first_gradient(stage)) for stage in reversed(range(stages))
        ]
        assert stops == [place for place in expected if first <= place[2] < first + ticks]
        whole += len(stops) == len(expected)
    assert whole == ticks - schedule.first_gradient(0)


def stop(rows: dict[int, list[Event]], event: Event) -> tuple[int, str, int]:
    """The process, name and tick of the innermost slice around a point of an arrow."""
    found = [e for e in rows[event["pid"]] if e["ts"] <= event["ts"] < e["ts"] + e["dur"]]
    return event["pid"], found[-1]["name"], found[-1]["args"]["tick"]


STAGES, FIRST, TICKS = 3, 20, 12
TICK = 1_000_000  # ns
SAME = (Clock(0, 40, 50), Clock(1, -40, 50))


def spans_of(*spans: tuple[int, int, int, int]) -> Rows:
    return np.array(sorted(spans, key=lambda span: span[3]), np.int64)


def stage_rows(stage: int, ahead: int = 0) -> Rows:
    """The spans of a stage whose ticks all look alike, by a clock that is `ahead` ns ahead."""
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
