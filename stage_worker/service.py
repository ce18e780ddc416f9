"""Answers the coordinator's calls: builds the stage, trains, evaluates, writes checkpoints.

consumes   calls, in RPC threads. Those that may come while the main thread works (such as stop_at) are answered there
produces   answers; a report at the end of each phase
waits for  the next call, in the main thread. It runs all other calls one at a time, so the tick loop needs no lock
"""

import gc
import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError, PeerError
from common.messages.stage_calls import Addresses, GradientSample, OutputSample, Plan, Snapshot, StageCalls, handling
from common.models import activation_shapes, build, part
from common.partition.balance import BlockCost, max_concurrent_stages, measure
from common.partition.rebalance import time_stage
from common.processes.membership import Membership
from common.processes.names import worker_text
from common.rule.clip_sums import ClipSums, Scores
from common.rule.packet import packet_bytes
from common.rule.stage import casting
from common.rule.tasks import without_loss
from common.rule.wire import wire_spec
from common.telemetry.spans import Rows, Spans, clock
from stage_worker import checkpoint, evaluation
from stage_worker.assembly import Assembly
from stage_worker.device import use_device
from stage_worker.edges.frame_intake import FrameSocket
from stage_worker.edges.link_delay import measure_delays
from stage_worker.edges.process_groups import Groups
from stage_worker.loop import Loop
from stage_worker.replicas import ReplicaGroup
from stage_worker.reporting.reporter import Reporter
from stage_worker.snapshots import Snapshots

if TYPE_CHECKING:
    from stage_worker.reporting.prometheus import StageMetrics

_IDLE_POLL = 0.25  # seconds between checks for a stop signal while idle
_SPANS = 24  # per tick at most, plus two per micro-batch
_SPANS_OF_SKIP = 6  # waiting, sending, and waiting within it, in both directions


class StageService(StageCalls):
    """A stage worker: its stage, once configured, and the main loop that handles calls."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        self.me, self.reporter = me, reporter
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._built: Assembly | None = None
        self._replicas: ReplicaGroup | None = None
        self._groups: Groups | None = None  # formed before the stage is built, or that of an earlier run
        self._configured = False
        self._sums = ClipSums()
        self._writer: checkpoint.CheckpointWriter | None = None
        self._snapshots: Snapshots | None = None
        self._coordinator_gone = False
        self._metrics: StageMetrics | None = None
        self._spans = Spans(0, 0, 0)
        self._code: int | None = None
        self._training = False

    def handle(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Answer one call; runs in an RPC thread."""
        handled, method = handling(call), partial(getattr(self, call), *args, **kwargs)
        if handled.in_rpc_thread:
            return method()
        answer: Future[Any] = Future()
        self._work.put((method, answer))
        return None if handled.returns_early else answer.result()

    def run(self) -> int:
        """Run queued calls until `quit`. Returns the exit code.

        A call's ConfigError or PeerError is sent as its answer; once the stage is configured it is also raised.
        """
        while self._code is None:
            try:
                method, answer = self._work.get(timeout=_IDLE_POLL)
            except queue.Empty:
                self.reporter.tell_signal()
                if self._coordinator_gone:
                    raise PeerError(f"{self.place}: the coordinator is gone") from None
                continue
            try:
                answer.set_result(method())
            except (ConfigError, PeerError) as error:
                answer.set_exception(error)
                if self._configured:
                    raise
        return self._code

    @property
    def place(self) -> str:
        """The stage and, during training, the tick, for error messages."""
        tick = f", tick {self._built.loop.tick}" if self._training and self._built else ""
        return f"{worker_text(self.me.worker, self.me.stages, self.me.replicas)}{tick}"

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

    def checkpoint_written(self, seconds: float) -> None:
        """Wait until the checkpoint is on disk."""
        assert self._writer is not None
        self._writer.wait(seconds)

    def trace_rows(self, seconds: float) -> Rows:
        """Wait for the last recorded tick, and return the spans."""
        self._spans.done.wait(seconds)
        return self._spans.rows()

    def clock(self) -> int:
        """This host's clock, in ns."""
        return clock()

    def expect_coordinator_exit(self) -> None:
        """Do not report the coordinator's exit."""
        self.reporter.verbose = False

    # ---- the main thread

    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time the model's blocks."""
        device = use_device(config, self.me)
        frames = torch.rand(config.frame_shape, device=device)
        return measure(build(config, classes).to(device), frames, partial(casting, config, device))

    def time_split(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Time this stage of a split."""
        device = use_device(config, self.me)
        if max_concurrent_stages(device, torch.get_num_threads()) < self.me.local_stages:
            return None
        frames = torch.rand(config.frame_shape, device=device)
        return time_stage(config, build(config, classes).to(device), split, self.me.stage, frames)

    def link_delay(self, config: Config, classes: int, split: list[int], tick: float) -> float:
        """Measure the link to the stage above."""
        me, model = self.me, build(config, classes)
        specs = activation_shapes([part(model, split, stage) for stage in range(me.stages)], config.frame_shape)
        hosts = [me.stage_member(stage).host for stage in range(me.stages)]
        sent = [wire_spec(config.network.wire, spec) for spec in specs]
        labels = without_loss(config, classes).form
        sizes = [
            packet_bytes(*spec, labels) * (below != above)
            for spec, (below, above) in zip(sent, pairwise(hosts), strict=False)
        ]
        self._groups = self._groups or Groups(me, 1.25 * config.network.deadline)
        return measure_delays(self._groups.forward, me.stage, me.stages, sizes, tick, config.network.deadline)

    def configure(self, plan: Plan) -> Addresses:
        """Build this stage and its edges. May be called again for another run with the same processes."""
        if self._built is not None:
            self._built.close()
            self._groups, self._built = self._built.groups, None
            gc.collect()  # a loop and its timed stage hold each other, and with them the memory of a GPU
        self.reporter.configure(plan.config, use_device(plan.config, self.me), self._metrics_of(plan.config))
        if self.me.replicas > 1:
            device, deadline = use_device(plan.config, self.me), 1.25 * plan.config.network.deadline
            self._replicas = self._replicas or ReplicaGroup(self.me, device, deadline)
        self._built = Assembly(plan, self.me, self._groups, self._replicas, self.reporter)
        self._configured = True
        return replace(self._built.addresses, metrics=self._metrics.address if self._metrics else "")

    def _metrics_of(self, config: Config) -> "StageMetrics | None":
        """This process's metrics, served from the first call on; None without metrics.port."""
        if not config.metrics.port:
            return None
        from stage_worker.reporting.prometheus import StageMetrics

        self._metrics = self._metrics or StageMetrics(config.metrics, self.me)
        self._metrics.configured(config, use_device(config, self.me))
        return self._metrics

    def train(self, first: int) -> None:
        """Run the ticks from `first`."""
        self.built.enter_phase(0)
        self._begin_snapshots(first)
        self._training = True
        self.built.loop.run(first)
        self._training = False
        self.reporter.done()

    def evaluate(self, phase: int) -> None:
        """Run an evaluation phase."""
        if self.built.replicas is not None:
            self.built.replicas.share_buffers(self.built.stage.blocks)
        self.built.enter_phase(phase)
        self._sums = evaluation.run(
            self.built.stage, self.built.evaluation_ports(), self.built.pace, self.reporter.tell_signal
        )
        self.reporter.done()

    def scores(self) -> Scores:
        """The last evaluation's sums."""
        return self._sums.scores()

    def set_rate(self, rate: float) -> None:
        """Change the learning rate."""
        self.built.stage.set_rate(rate)

    def restore(self, folder: Path, tick: int, same_split: bool, in_flight: bool, optimiser: bool) -> None:
        """Restore the stage from a checkpoint."""
        own = checkpoint.part_of(folder, self.me.of_replica) if in_flight else folder
        checkpoint.restore(self.built, folder, own, tick, same_split, in_flight, optimiser)

    def snapshots(self, folder: Path) -> list[Snapshot]:
        """Keep snapshots there, and find those of an earlier attempt."""
        self._snapshots = Snapshots(folder, self.me.stage, self.me.of_replica, self.me.replicas)
        self.reporter.on_lost = self._lose_coordinator
        return self._snapshots.found()

    def heal(self, source: Snapshot | None, tick: int) -> None:
        """Go on at `tick`."""
        assert self._snapshots is not None, "call snapshots first"
        if source is None:
            self.built.stage.count(tick)
            return
        try:
            self._snapshots.load(self.built, source, tick)
        except Exception as error:
            raise PeerError(f"cannot restore the snapshot of tick {source.tick}: {error}") from error

    def _begin_snapshots(self, first: int) -> None:
        loop = self.built.loop
        if self._snapshots is not None and isinstance(loop, Loop) and loop.snapshots is None:
            self._snapshots.begin(self.built, first)
            loop.snapshots = self._snapshots

    def keep_snapshot(self) -> None:
        """This process ends because it has lost a peer: keep its state. The peers are told at once."""
        if self._snapshots is not None and self._built is not None:
            self._built.disconnect()
            self._built.stage.finish_update()
            self._snapshots.keep_last(self._built.loop.tick + (not self._training))

    def _lose_coordinator(self) -> None:
        """End whatever the main thread waits for; runs in another thread."""
        self._coordinator_gone = True
        FrameSocket.end_waits()

    def checkpoint(self, folder: Path, tick: int) -> None:
        """Copy the state, and start writing it in the background."""
        groups = self.built.groups
        state, own = checkpoint.copy_state(self.built, tick), checkpoint.part_of(folder, self.me.of_replica)
        self._writer = checkpoint.CheckpointWriter(state, own, groups.checkpoint if groups else None)

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers, copied to the CPU, with the averaged weights if there are any."""
        stage = self.built.stage
        stage.swap_average()
        tensors = {name: value.detach().to("cpu", copy=True) for name, value in stage.weights().items()}
        stage.swap_average()
        return tensors

    def trace(self, first: int, ticks: int) -> None:
        """Record the spans of future ticks."""
        config = self.built.stage.config
        self._spans = Spans(first, ticks, _SPANS + 2 * config.parts + _SPANS_OF_SKIP * len(config.skip_pairs))
        self.built.work.record(self._spans)

    def quit(self, code: int) -> None:
        """End `run` after answering."""
        self.reporter.allow_coordinator_exit()
        if self._snapshots is not None:
            self._snapshots.leave()
        self._code = code
