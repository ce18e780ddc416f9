"""Writes a recording as a trace for Perfetto and chrome://tracing: Trace Event Format, gzipped JSON.

process "coordinator"    slices    read, feed
process "reader n"       slices    read, feed; with data.readers
process "stage i"        slices    tick, and within it forward, backward, update, sends and waits
                         async     each message sent: from the end of the send until the neighbour has received it
arrows                             one per frame (with exact gradients, per micro-batch): from the coordinator, or the
                                   first reader, up through the stages' forward passes, then down through their
                                   backward passes
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.rule.schedule import Schedule
from common.telemetry.spans import Kind, Rows
from coordinator.atomic_file import replacing
from coordinator.trace.clocks import Clock, at_one_clock

Event = dict[str, Any]
Key = tuple[int, int, str]  # process, Kind, frame

_COORDINATOR = 0  # processes: the coordinator is 0, stage i is i + 1, then come the readers; in the file from 1 on
_NAMES = {
    Kind.WAIT_ACTIVATION: "wait: activation",
    Kind.WAIT_GRADIENT: "wait: gradient",
    Kind.SEND_ACTIVATION: "send activation",
    Kind.SEND_GRADIENT: "send gradient",
    Kind.WAIT_ACTIVATION_SENT: "wait: activation sent",
    Kind.WAIT_GRADIENT_SENT: "wait: gradient sent",
    Kind.WAIT_FRAMES: "wait: frames",
    Kind.WAIT_TARGETS: "wait: targets",
    Kind.WAIT_REPLICAS: "wait: replicas",
}
_OF_GRADIENT = (
    Kind.BACKWARD,
    Kind.UPDATE,
    Kind.WAIT_GRADIENT,
    Kind.SEND_GRADIENT,
    Kind.WAIT_GRADIENT_SENT,
    Kind.WAIT_REPLICAS,
)
_SHORTEST_WAIT = 1000  # ns; a shorter one would not be visible


@dataclass(frozen=True)
class Recording:
    """The spans of the coordinator, of each stage and of each reader, each by its own host's clock.

    Attributes:
        first: the first tick to record.
        asked: number of ticks to record.
        clocks: of each stage, before and after the recording.
        readers, reader_clocks: of the readers likewise.
        edge_ticks: of the edges between neighbours; empty if they take one each.
    """

    run: str
    algorithm: str
    first: int
    asked: int
    coordinator: Rows
    stages: list[Rows]
    clocks: list[tuple[Clock, Clock]]
    edge_ticks: tuple[int, ...] = ()
    readers: Sequence[Rows] = ()
    reader_clocks: Sequence[tuple[Clock, Clock]] = ()

    @property
    def exact(self) -> bool:
        """Whether gradients are exact: a tick is a whole step, in which all stages work on the same frame."""
        return self.algorithm != "sideways"

    @property
    def ticks(self) -> int:
        """Number of ticks that every stage has recorded."""
        return min(int((rows[:, 0] == Kind.TICK).sum()) for rows in self.stages)


def write(recording: Recording, path: Path) -> None:
    """Write the trace atomically. Raises OSError."""
    with replacing(path) as part, gzip.open(part, "wt", compresslevel=4) as file:
        about = {"displayTimeUnit": "ms", "otherData": _about(recording), "traceEvents": []}
        file.write(json.dumps(about)[:-2])
        for number, event in enumerate(events(recording)):
            file.write(f"{',' if number else ''}\n{json.dumps(event)}")
        file.write("\n]}\n")


def events(recording: Recording) -> Iterator[Event]:
    """The events of the trace, the slices of each process in the order of time."""
    others, clocks = [*recording.stages, *recording.readers], [*recording.clocks, *recording.reader_clocks]
    processes = [recording.coordinator, *map(at_one_clock, others, clocks)]
    yield from _rows(len(recording.stages), len(recording.readers))
    yield from _ChromeTrace(recording, [_in_order(rows) for rows in processes]).events()


def _about(recording: Recording) -> Event:
    clocks = [
        {
            kind: number,
            "offset_us": 0 if before.same and after.same else [before.offset / 1e3, after.offset / 1e3],
            "uncertainty_us": max(before.uncertainty, after.uncertainty) / 1e3,
        }
        for kind, own in (("stage", recording.clocks), ("reader", recording.reader_clocks))
        for number, (before, after) in enumerate(own)
    ]
    return {
        "run": recording.run,
        "algorithm": recording.algorithm,
        "stages": len(recording.stages),
        "readers": len(recording.readers),
        "first_tick": recording.first,
        "ticks": recording.ticks,
        "asked": recording.asked,
        "clocks": clocks,
    }


def _in_order(rows: Rows) -> Rows:
    """Sort spans by start, an enclosing span before those within it. Drops waits that are too short to see."""
    waits = [kind for kind, name in _NAMES.items() if name.startswith("wait")]
    rows = rows[~(np.isin(rows[:, 0], waits) & (rows[:, 3] - rows[:, 2] < _SHORTEST_WAIT))]
    return rows[np.lexsort((-rows[:, 3], rows[:, 2]))]


def _rows(stages: int, readers: int) -> Iterator[Event]:
    names = ["coordinator", *(f"stage {n}" for n in range(stages)), *(f"reader {n}" for n in range(readers))]
    for process, name in enumerate(names):
        place = {"ph": "M", "pid": process + 1, "tid": process + 1}
        yield {**place, "name": "process_name", "args": {"name": name}}
        yield {**place, "name": "process_sort_index", "args": {"sort_index": process}}
        yield {**place, "name": "thread_name", "args": {"name": name}}


class _ChromeTrace:
    """Turns spans into events. `processes`: the coordinator's spans, then each stage's."""

    def __init__(self, recording: Recording, processes: list[Rows]) -> None:
        self._exact, self._processes = recording.exact, processes
        self._stages = len(recording.stages)
        self._feeder = self._stages + 1 if recording.readers else _COORDINATOR  # of the stages that are recorded
        self._schedule = Schedule(self._stages, recording.edge_ticks)
        self._zero = min((int(rows[:, 2].min()) for rows in processes if len(rows)), default=0)
        self._found: dict[Key, tuple[int, int]] = {}  # start, end

    def events(self) -> Iterator[Event]:
        """All events. Slices come first, because transfers and arrows connect them."""
        for process in range(len(self._processes)):
            yield from self._slices(process)
        if not self._exact:
            for stage in range(self._stages):
                yield from self._transfers(stage)
        yield from self._arrows()

    def _slices(self, process: int) -> Iterator[Event]:
        parts: dict[tuple[int, int], int] = {}  # by kind and tick: micro-batches so far
        for number, tick, start, end in self._processes[process].tolist():
            kind, arguments = Kind(number), {"tick": tick}
            frame = self._frame(kind, process, tick)
            if frame is not None and frame >= 0:
                part = parts.get((number, tick), 0)
                parts[number, tick] = part + 1
                micro_batch = self._exact and kind in (Kind.FORWARD, Kind.BACKWARD)
                arguments |= {"frame": frame, **({"micro_batch": part} if micro_batch else {})}
                self._found[process, number, _name(frame, part)] = start, end
            name = _NAMES.get(kind, kind.name.lower())
            category = "wait" if name.startswith("wait") else "work"
            yield self._at("X", process, start, name, category, dur=(end - start) / 1e3, args=arguments)

    def _frame(self, kind: Kind, process: int, tick: int) -> int | None:
        """The frame that a span works on, None if none; for the span of a tick, the frame that the stage holds."""
        if kind in (Kind.SETTLE, Kind.REPORT) or (self._exact and kind == Kind.UPDATE):
            return None
        if process == _COORDINATOR or process > self._stages or self._exact:
            return tick
        stage = process - 1
        of_gradient = kind in _OF_GRADIENT
        return self._schedule.gradient(stage, tick) if of_gradient else self._schedule.frame(stage, tick)

    def _transfers(self, stage: int) -> Iterator[Event]:
        ways = (
            (1, Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION, Kind.FORWARD, "activation"),
            (-1, Kind.SEND_GRADIENT, Kind.WAIT_GRADIENT, Kind.BACKWARD, "gradient"),
        )
        for step, send, wait, use, what in ways:
            for frame, left in self._sent(stage, send):
                taken = self._taken(stage + step + 1, wait, use, frame)
                if taken is not None:
                    name, own = f"{what} to stage {stage + step}", {"id": f"{stage}.{what}.{frame}"}
                    arguments = {"frame": int(frame)}
                    yield self._at("b", stage + 1, left, name, "transfer", args=arguments, **own)
                    yield self._at("e", stage + 1, max(left, taken), name, "transfer", **own)

    def _sent(self, stage: int, send: Kind) -> list[tuple[str, int]]:
        """The frames that a stage sent, each with the end of its send in ns."""
        found = self._found.items()
        return [(frame, end) for (process, kind, frame), (_, end) in found if (process, kind) == (stage + 1, send)]

    def _taken(self, process: int, wait: Kind, use: Kind, frame: str) -> int | None:
        """When the receiver had a message, in ns: at the end of its wait or, without a wait, when it used it."""
        waited, used = self._found.get((process, wait, frame)), self._found.get((process, use, frame))
        return waited[1] if waited else used[0] if used else None

    def _arrows(self) -> Iterator[Event]:
        up = [(process, Kind.FORWARD) for process in range(1, self._stages + 1)]
        down = [(process, Kind.BACKWARD) for process in range(self._stages, 0, -1)]
        frames = dict.fromkeys(frame for _, kind, frame in self._found if kind in (Kind.FORWARD, Kind.BACKWARD))
        for frame in frames:
            way = [(self._feeder, Kind.FEED, frame.partition(".")[0]), *((*place, frame) for place in up + down)]
            stops = [(key[0], *self._found[key]) for key in way if key in self._found]
            for number, (process, start, end) in enumerate(stops if len(stops) > 1 else []):
                phase = "s" if number == 0 else "f" if number == len(stops) - 1 else "t"
                binding = {"bp": "e"} if phase == "f" else {}  # bind to the enclosing slice, not the next
                # a stage may begin with a frame before the feeder, which may be held up meanwhile, has returned
                moment = start if process == self._feeder else (start + end) // 2
                yield self._at(phase, process, moment, "frame", "frame", id=frame, **binding)

    def _at(self, phase: str, process: int, moment: int, name: str, category: str, **more: Any) -> Event:
        place = {"ph": phase, "pid": process + 1, "tid": process + 1, "ts": (moment - self._zero) / 1e3}
        return {**place, "name": name, "cat": category, **more}


def _name(frame: int, part: int) -> str:
    """The id of a frame, or of one of its micro-batches after the first."""
    return f"{frame}.{part}" if part else f"{frame}"
