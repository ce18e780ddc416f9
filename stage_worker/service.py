"""Answers the coordinator's calls that concern a single stage. stage_worker/worker.py has the others."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import first_line
from common.messages.frame_envelope import TRAINING
from common.messages.restorable import Restorable
from common.messages.snapshot import Kept, Snapshot
from common.messages.stage_calls import Addresses, GradientSample, OutputSample, Plan
from common.models import build
from common.partition.balance import BlockCost, max_concurrent_stages, measure
from common.partition.rebalance import time_stage
from common.partition.stopwatch import as_it_runs
from common.processes.deadlines import for_edges
from common.processes.membership import Membership
from common.processes.names import worker_text
from common.rule.clip_sums import ClipSums, Scores
from common.rule.precision import casting
from common.telemetry.spans import Rows, Spans, clock
from stage_worker import checkpoint
from stage_worker.assembly import Assembly
from stage_worker.device import use_device
from stage_worker.edges.connect import LocalEdges
from stage_worker.edges.frame_socket import FrameSocket
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.transport import on_gpus
from stage_worker.evaluation import Evaluation
from stage_worker.replicas import ReplicaGroup
from stage_worker.reporting.reporter import Reporter
from stage_worker.snapshot_writer import SnapshotWriter
from stage_worker.snapshots import Snapshots

if TYPE_CHECKING:
    from stage_worker.reporting.prometheus import StageMetrics

_SPANS = 24  # per tick at most, plus two per micro-batch
_SPANS_OF_SKIP = 6  # waiting, sending, and waiting within it, in both directions


class StageService:
    """One stage of a worker: the stage, once built, and the calls of `StageCalls` that concern it alone."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        """`me`: concerning this stage."""
        self.me, self.reporter = me, reporter
        self._built: Assembly | None = None
        self._replicas: ReplicaGroup | None = None
        self._sums = ClipSums()
        self._snapshots: Snapshots | None = None
        self._writer: SnapshotWriter | None = None
        self._metrics: StageMetrics | None = None
        self._spans = Spans(0, 0, 0)
        self.coordinator_gone = self.training = False

    @property
    def place(self) -> str:
        """The stage and, during training, the tick, for error messages."""
        tick = f", tick {self._built.loop.tick}" if self.training and self._built else ""
        return f"{worker_text(self.me.number, self.me.stages, self.me.replicas)}{tick}"

    @property
    def built(self) -> Assembly:
        """The assembled stage. Call `configure` first."""
        assert self._built is not None, "call configure first"
        return self._built

    # ---- answered in RPC threads, also during training

    def stop_at(self, last: int) -> None:
        """Set the end of the training."""
        self.built.loop.last = last

    def probe(self, frame: int) -> None:
        """Sample the gradient at a frame."""
        self.built.probe.ask(frame)

    def probe_result(self, seconds: float) -> GradientSample | None:
        """Wait for the sample."""
        return self.built.probe.answer(seconds)

    def sample_output(self, frame: int, rows: int, every: int) -> None:
        """Copy the output for a frame."""
        self.built.loop.sampler.ask(frame, rows, every)

    def sampled_output(self) -> OutputSample | None:
        """The copy, if there is one."""
        return self.built.loop.sampler.sample

    def trace_rows(self, seconds: float) -> Rows:
        """Wait for the last recorded tick, and return the spans."""
        self._spans.done.wait(seconds)
        return self._spans.rows()

    def clock(self) -> int:
        """This host's clock, in ns."""
        return clock()

    def expect_coordinator_exit(self) -> None:
        """Do not report the coordinator's exit."""
        self.reporter.coordinator.verbose, self.reporter.coordinator.run_ends = False, True

    # ---- the main thread

    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time the model's blocks."""
        device = use_device(config, self.me)
        model = build(config, classes)
        frames = as_it_runs(config, model, device, on_gpus(config, self.me))
        return measure(model, frames, partial(casting, config, device))

    def time_split(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Time this stage of a split."""
        device, me = use_device(config, self.me), self.me
        if me.stages_each > 1 or max_concurrent_stages(device, torch.get_num_threads()) < me.local_processes:
            return None
        model = build(config, classes)
        frames = as_it_runs(config, model, device, on_gpus(config, self.me))
        return time_stage(config, model, split, self.me.stage, frames)

    def build(self, plan: Plan, groups: Groups | None, local: LocalEdges) -> Assembly:
        """Build this stage, in place of that of an earlier run with the same processes. Raises ConfigError."""
        if self._built is not None:
            self._built.close()
            self._built = self._writer = None
            gc.collect()  # a loop and its timed stage hold each other, and with them the memory of a GPU
        config, device = plan.config, use_device(plan.config, self.me)
        self.reporter.configure(config, device, self._metrics_of(config))
        if self.me.replicas > 1:
            self._replicas = self._replicas or ReplicaGroup(self.me, device, for_edges(config.network.deadline))
        self._built = Assembly(plan, self.me, groups, self._replicas, local)
        return self._built

    def complete(self) -> Addresses:
        """Make the stage ready, once its edges are connected. Raises ConfigError."""
        self.built.complete(self.reporter)
        return replace(self.built.addresses, metrics=self._metrics.address if self._metrics else "")

    def _metrics_of(self, config: Config) -> "StageMetrics | None":
        """This process's metrics, served from the first call on; None without metrics.port."""
        if not config.metrics.port:
            return None
        from stage_worker.reporting.prometheus import StageMetrics

        self._metrics = self._metrics or StageMetrics(config.metrics, self.me)
        self._metrics.configured(config, use_device(config, self.me))
        return self._metrics

    def begin_training(self, first: int) -> None:
        """Begin to train at tick `first`."""
        self.built.enter_phase(TRAINING)
        self._begin_snapshots(first)
        self.training = True

    def end_training(self) -> None:
        """The phase is done."""
        self.training = False
        self.reporter.done()

    def evaluation(self, phase: int) -> Evaluation:
        """An evaluation phase, to be run."""
        built = self.built
        if built.replicas is not None:
            built.replicas.share_buffers(built.stage.blocks)
        built.enter_phase(phase)
        ports, tell_signal = built.evaluation_ports(), self.reporter.tell_signal
        return Evaluation(built.stage, ports, built.pace, built.stream, tell_signal)

    def end_evaluation(self, sums: ClipSums) -> None:
        """The phase is done."""
        self._sums = sums
        self.reporter.done()

    def scores(self) -> Scores:
        """The last evaluation's sums."""
        return self._sums.scores()

    def replays_graphs(self) -> bool:
        """Whether ticks are replays by now."""
        return self.built.stage.updater.replay is not None

    def set_rate(self, rate: float) -> None:
        """Change the learning rate."""
        self.built.stage.set_rate(rate)

    def restore(self, folder: Path, tick: int, what: Restorable) -> None:
        """Restore the stage from a checkpoint."""
        own = checkpoint.folder_of_replica(folder, self.me.of_replica) if what.in_flight else folder
        checkpoint.restore(self.built, folder, own, tick, what)
        if what.scored and self.built.replicas is not None:
            self.built.replicas.share_buffers(self.built.stage.blocks)  # as the evaluation did

    def use_snapshot_folder(self, folder: Path) -> Kept:
        """Keep snapshots there, and find those of an earlier attempt."""
        self._snapshots = Snapshots(folder, self.me)
        self.reporter.coordinator.on_lost = self._lose_coordinator
        return self._snapshots.kept()

    def read_snapshot(self, source: Snapshot) -> Tensor:
        """Read a snapshot on this host."""
        return self._kept.read(source)

    def resume_from_snapshot(self, sources: Sequence[Snapshot | None], tick: int) -> str:
        """Go on at `tick`."""
        self._kept.forget_after(tick)
        source = sources[self.me.number] if sources else None
        if source is not None:
            try:
                self._kept.load(self.built, source, tick)
            except Exception as error:  # whatever is wrong with it, it must not be chosen again
                return f"{self.place}: the snapshot of tick {source.tick} cannot be restored ({first_line(error)})"
        elif sources:
            self.built.stage.count(tick)
        return ""

    def keep_copy(self, name: str, tick: int, data: Tensor, keep: int) -> None:
        """Keep a snapshot of another host's process."""
        self._kept.keep_copy(name, tick, data, keep)

    def forget_copies(self, name: str, tick: int | None = None) -> None:
        """Forget the snapshots of this name, or only that of one tick."""
        self._kept.forget(name, tick)

    @property
    def _kept(self) -> Snapshots:
        assert self._snapshots is not None, "call snapshots first"
        return self._snapshots

    def _begin_snapshots(self, first: int) -> None:
        loop = self.built.loop
        if self._snapshots is not None and loop.snapshots is None:
            loop.snapshots = self._writer = self._snapshots.begin(self.built, first)

    def keep_snapshot(self) -> None:
        """This process ends because it has lost a peer: keep the stage's state, unless the run ends for good."""
        if self.reporter.coordinator.run_ends:
            self._leave_snapshots()
        elif self._writer is not None:
            self._writer.keep_last(self.built.loop.tick + (not self.training))

    def disconnect(self) -> None:
        """Close the edges, so that the neighbours need not wait for this stage."""
        if self._built is not None:
            self._built.disconnect()

    def _lose_coordinator(self) -> None:
        """End whatever the main thread waits for; runs in another thread."""
        self.coordinator_gone = True
        FrameSocket.end_waits()

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers, copied to the CPU, with the averaged weights if there are any."""
        stage = self.built.stage
        stage.swap_average()
        tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in stage.weights().items()}
        stage.swap_average()
        return tensors

    def trace(self, first: int, ticks: int) -> None:
        """Record the spans of future ticks."""
        config = self.built.stage.config
        self._spans = Spans(
            first, ticks, _SPANS + 2 * config.micro_batch_count + _SPANS_OF_SKIP * len(config.skip_pairs)
        )
        self.built.work.record(self._spans)

    def leave(self) -> None:
        """The run ends."""
        self.reporter.coordinator.allow_exit()
        self._leave_snapshots()

    def _leave_snapshots(self) -> None:
        if self._writer is not None:
            self._writer.wait()
        if self._snapshots is not None:
            self._snapshots.leave()
