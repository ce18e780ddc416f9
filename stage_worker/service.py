"""Answers the coordinator's calls: builds the stage, and runs what is asked for.

consumes   calls, in RPC threads; those that may come while the main thread works are answered there (stop_at, and
           waiting for what goes on in the background)
produces   answers; a report at the end of each phase
waits for  the next call, in the main thread, which runs all others one after another: the tick loop shares nothing
           with other threads and needs no lock
"""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError, PeerError
from common.messages.stage_calls import Addresses, GradientSample, Plan, StageCalls, handling
from common.models import build
from common.partition.balance import BlockCost, max_concurrent_stages, measure
from common.partition.rebalance import time_stage
from common.processes.membership import Membership
from common.rule.clip_sums import ClipSums, Scores
from common.telemetry.spans import Rows, Spans, clock
from stage_worker import checkpoint, evaluation
from stage_worker.assembly import Assembly, use_device
from stage_worker.reporting.reporter import Reporter

if TYPE_CHECKING:
    from stage_worker.reporting.prometheus import StageMetrics

_IDLE_POLL = 0.25  # seconds between looks at a stop signal while there is nothing to do
_SPANS = 24  # of a tick, at most, and two more of each micro-batch


class StageService(StageCalls):
    """One stage worker: what it is built of, and its main thread."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        self.me, self.reporter = me, reporter
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._built: Assembly | None = None
        self._sums = ClipSums()
        self._writer: checkpoint.CheckpointWriter | None = None
        self._metrics: StageMetrics | None = None
        self._spans = Spans(0, 0, 0)
        self._code: int | None = None
        self._training = False

    def handle(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Answer one call; runs in an RPC thread."""
        how, method = handling(call), partial(getattr(self, call), *args, **kwargs)
        if how.in_rpc_thread:
            return method()
        answer: Future[Any] = Future()
        self._work.put((method, answer))
        return None if how.returns_early else answer.result()

    def run(self) -> int:
        """Work until told to quit. Returns the exit code.

        A call that fails is answered with its error; a failing phase ends the process.
        """
        while self._code is None:
            try:
                method, answer = self._work.get(timeout=_IDLE_POLL)
            except queue.Empty:
                self.reporter.tell_signal()
                continue
            try:
                answer.set_result(method())
            except (ConfigError, PeerError) as error:
                answer.set_exception(error)
                if self._built is not None:
                    raise
        return self._code

    @property
    def place(self) -> str:
        """Which stage this is, and the tick that it trains at, for error messages."""
        tick = f", tick {self._built.loop.tick}" if self._training and self._built else ""
        return f"stage {self.me.stage}{tick}"

    @property
    def built(self) -> Assembly:
        """The stage, after `configure`."""
        assert self._built is not None, "configure comes first"
        return self._built

    # ---- answered in RPC threads, beside the training

    def stop_at(self, last: int) -> None:
        """Set the end of the training, while it runs too."""
        self.built.loop.last = last

    def probe(self, frame: int) -> None:
        """Look at a frame, while the ticks run."""
        self.built.probe.ask(frame)

    def probe_result(self, seconds: float) -> GradientSample | None:
        """Wait for what was seen."""
        return self.built.probe.answer(seconds)

    def checkpoint_written(self, seconds: float) -> None:
        """Wait for the checkpoint to be on the disk."""
        assert self._writer is not None
        self._writer.wait(seconds)

    def trace_rows(self, seconds: float) -> Rows:
        """Wait for the last tick that is recorded, but no longer than this."""
        self._spans.done.wait(seconds)
        return self._spans.rows()

    def clock(self) -> int:
        """This host's, in ns."""
        return clock()

    def expect_coordinator_exit(self) -> None:
        """The coordinator's end need not be reported."""
        self.reporter.verbose = False

    # ---- the main thread

    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time the model's blocks."""
        device = use_device(config, self.me)
        return measure(build(config, classes).to(device), torch.rand(config.frame_shape, device=device))

    def time_split(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Time this stage of a split."""
        device = use_device(config, self.me)
        if max_concurrent_stages(device, torch.get_num_threads()) < self.me.local_stages:
            return None
        frames = torch.rand(config.frame_shape, device=device)
        return time_stage(config, build(config, classes).to(device), split, self.me.stage, frames)

    def configure(self, plan: Plan) -> Addresses:
        """Build this stage and its edges. May be called again, for another run with the same processes."""
        groups = None
        if self._built is not None:
            self._built.close()
            groups = self._built.groups
        self.reporter.configure(plan.config, use_device(plan.config, self.me), self._metrics_of(plan.config))
        self._built = Assembly(plan, self.me, groups, self.reporter)
        return replace(self._built.addresses, metrics=self._metrics.address if self._metrics else "")

    def _metrics_of(self, config: Config) -> "StageMetrics | None":
        """This process's metrics, served from when they are first asked for."""
        if not config.metrics.port:
            return None
        from stage_worker.reporting.prometheus import StageMetrics

        self._metrics = self._metrics or StageMetrics(config.metrics, self.me)
        self._metrics.configured(config, use_device(config, self.me))
        return self._metrics

    def train(self, first: int) -> None:
        """Run the ticks from `first`."""
        self.built.enter_phase(0)
        self._training = True
        self.built.loop.run(first)
        self._training = False
        self.reporter.done()

    def evaluate(self, phase: int) -> None:
        """Run an evaluation phase."""
        self.built.enter_phase(phase)
        self._sums = evaluation.run(self.built.stage, self.built.evaluation_ports(), self.reporter.tell_signal)
        self.reporter.done()

    def scores(self) -> Scores:
        """The last evaluation's sums."""
        return self._sums.scores()

    def set_rate(self, rate: float) -> None:
        """Change the learning rate."""
        self.built.stage.updater.set_rate(rate)

    def restore(self, folder: Path, tick: int, in_flight: bool, optimiser: bool) -> None:
        """Become what the stage was at a checkpoint."""
        checkpoint.restore(self.built, folder, tick, in_flight, optimiser)

    def checkpoint(self, folder: Path, tick: int) -> None:
        """Copy the state, and begin to write it."""
        groups = self.built.groups
        state = checkpoint.copy_state(self.built, tick)
        self._writer = checkpoint.CheckpointWriter(state, folder, groups.checkpoint if groups else None)

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers, copied to the CPU; the average of the weights, if there is one."""
        stage = self.built.stage
        stage.updater.swap_average()
        tensors = {name: value.detach().to("cpu", copy=True) for name, value in stage.blocks.state_dict().items()}
        stage.updater.swap_average()
        return tensors

    def trace(self, first: int, ticks: int) -> None:
        """Record some ticks to come."""
        self._spans = Spans(first, ticks, _SPANS + 2 * self.built.stage.config.parts)
        self.built.work.record(self._spans)

    def quit(self, code: int) -> None:
        """End after answering."""
        self.reporter.allow_coordinator_exit()
        self._code = code
