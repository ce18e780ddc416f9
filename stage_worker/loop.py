"""The tick loop of a stage worker: `run_ticks`. A worker may hold several stages, which then take turns in a tick.

    consumes   x: the packet that the stage below sent d ticks ago (stage 0: the coordinator's next frame batch)
               g: the gradient packet that the stage above sent d ticks ago (top stage: its own loss)
    produces   y for the stage above, sent while the backward pass runs
               r for the stage below, sent while the update and the next forward pass run
    waits for  only its neighbours' tick d ticks ago, so a stage runs at most d ticks ahead of a neighbour

d are the ticks of the edge between the two: one, unless the link is slow (network.edge_ticks).

common/rule/tick.py defines the order within a tick. Between ticks only the packets
on the edges are kept, and what blocks with a memory remember.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.rule.stage import Stage
from common.rule.tick import run_tick
from common.telemetry.spans import DATA_WAIT, RECEIVE_WAIT, SEND_WAIT, Kind, WorkClock, clock
from stage_worker.device_pace import DevicePace
from stage_worker.edges.ports import EdgePorts
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.output_sampler import OutputSampler
from stage_worker.reporting.reported_loop import ReportedLoop, Times
from stage_worker.reporting.reporter import Reporter
from stage_worker.reporting.timed_stage import timed
from stage_worker.stage_stream import StageStream

if TYPE_CHECKING:
    from stage_worker.snapshot_writer import SnapshotWriter

_REPORT, _SETTLE = int(Kind.REPORT), int(Kind.SETTLE)


def run_ticks(loops: Sequence["TickLoop"], first: int) -> None:
    """Train from tick `first` until `last`. `loops`: of the stages that this worker holds, from the bottom."""
    steps = [loop.stream.over(loop.step) for loop in loops]
    kept = [loop.stream.over(loop.snapshots.ticked) for loop in loops if loop.snapshots is not None]
    for loop in loops:
        loop.begin()
    tick = first
    while tick < loops[0].last:
        for step in steps:
            step(tick)
        for keep in kept:  # once all have sent what the others wait for
            keep(tick)
        tick += 1
    for loop in loops:
        loop.stream.over(loop.end)(tick - 1)
        loop.stream.end()


@dataclass(eq=False)
class TickLoop(ReportedLoop, ABC):
    """The ticks of one stage, whatever it computes in them.

    Attributes:
        last: end of the training; may be changed by another thread while it runs.
        tick: the current tick, or the last one that ran.
        snapshots: keeps the stage's state in memory; None if none is to be kept.
        sampler: copies an output on request.
    """

    stage: Stage
    ports: EdgePorts
    reporter: Reporter
    work: WorkClock
    pace: DevicePace
    stream: StageStream
    last: int = field(default=0, init=False)
    tick: int = field(default=0, init=False)
    snapshots: "SnapshotWriter | None" = field(default=None, init=False)
    sampler: OutputSampler = field(init=False)

    def begin(self) -> None:
        """Begin a phase."""
        self.reporter.begin(self)
        self.stream.begin()

    def step(self, tick: int) -> None:
        """Run one tick of this stage."""
        self.tick = tick
        if self.snapshots is not None and self.snapshots.is_due_after(tick):
            self.reporter.due = True  # what a run that goes on from the snapshot will not report again
        self.pace.begin(tick)
        self.work.begin_tick(tick)
        self.compute(tick)
        self.work.end_tick()
        self.pace.end(tick)
        self._report(tick)

    def end(self, tick: int) -> None:
        """End a phase, of which `tick` was the last."""
        self.settle(tick)
        self.reporter.flush(tick, self)
        self.work.end_phase()

    @abstractmethod
    def compute(self, tick: int) -> None:
        """Receive, compute and send what belongs to this tick."""

    @abstractmethod
    def settle(self, tick: int) -> None:
        """Finish what is still being sent; `tick` was the last."""

    def update_is_reported(self) -> bool:
        """Whether this tick's update is one whose gradient is reported."""
        return self.reporter.due or self.tick == self.last - 1

    def _report(self, tick: int) -> None:
        start = clock()
        self.reporter.ticked(tick, self)
        self.work.add(_REPORT, start)


@dataclass(eq=False)
class SidewaysLoop(TickLoop):
    """The ticks of one stage by the Sideways rule.

    Attributes:
        timed: the stage, wrapped to time its work.
    """

    probe: StageProbe

    def __post_init__(self) -> None:
        self.timed = timed(self.stage, self.work, self.probe, self._before_update, self.ports.device)
        self.sampler = self.timed.sampler

    def compute(self, tick: int) -> None:
        """Run one tick of the rule."""
        run_tick(self.timed, self.ports, tick)

    def settle(self, tick: int) -> None:
        """Receive and keep what is still in flight."""
        start = clock()
        self.ports.settle(tick)
        self.work.add(_SETTLE, start)

    def _before_update(self) -> None:
        if self.update_is_reported():
            self.reporter.gradient_norm = self.stage.updater.gradient_norm()

    # ---- statistics for the reports

    @property
    def model_cpu(self) -> float | None:
        """CPU seconds in the model since `clear`; None if it uses several threads, or the process has more stages."""
        return self.timed.model_cpu if self.stream.alone else None

    def times(self) -> Times:
        """Times since `clear`."""
        return Times(self.work.compute_seconds(), *map(self.work.seconds, (RECEIVE_WAIT, SEND_WAIT, DATA_WAIT)))

    def compute_seconds(self) -> float:
        """Seconds in the stage's passes since `clear`, on the device that computes them. On a GPU it waits for them."""
        return self.timed.compute_seconds()

    def bytes_sent(self) -> tuple[int, int]:
        """Bytes sent forward and backward since `clear`."""
        return self.ports.bytes_sent()

    def clear(self) -> None:
        """Zero the counters."""
        self.work.clear()
        self.ports.clear()
        self.timed.clear()
