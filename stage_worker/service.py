"""The stage's side of the control channel: builds the stage, and runs what the coordinator asks for.

Calls arrive in RPC threads. All but `stop_at`, which only moves a number, are handed to the main thread, one after
another: the tick loop shares nothing with other threads and needs no lock.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError, PeerError
from common.messages.stage_calls import Addresses, Plan, Scores
from common.models import build
from common.partition.balance import BlockCost, at_once, measure
from common.partition.rebalance import time_stage
from common.processes.membership import Membership
from common.telemetry.spans import Rows, clock
from stage_worker import checkpoint, evaluation
from stage_worker.assembly import Assembly, use_device
from stage_worker.loop import Loop
from stage_worker.reporting.gradient_probe import Finding
from stage_worker.reporting.reporter import Reporter
from stage_worker.tracer import Tracer

if TYPE_CHECKING:
    from stage_worker.exact_loop import ExactLoop
    from stage_worker.reporting.prometheus import StageMetrics

_IDLE_POLL = 0.25  # seconds between looks at a stop signal while there is nothing to do


class StageService:
    """One stage worker: what it is built of, and its main thread."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        self.me, self.reporter = me, reporter
        self.loop: Loop | ExactLoop | None = None
        self._writer: checkpoint.CheckpointWriter | None = None
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.built: Assembly | None = None
        self._tally = evaluation.ClipSums()
        self._metrics: StageMetrics | None = None
        self._code: int | None = None
        self._trace: Tracer | None = None

    # ---- called in RPC threads

    def handle(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Answer one call of common/messages/stage_calls.py."""
        if method in ("stop_at", "probe", "probed", "written", "traced", "clock", "hush"):
            return getattr(self, method)(*arguments)
        if method == "train":  # before the call is answered, so that no later `stop_at` is overtaken
            first, last = arguments
            self.stop_at(last)
            arguments = (first,)
        work: Future[Any] = Future()
        self._commands.put((lambda: getattr(self, f"do_{method}")(*arguments), work))
        if method in ("train", "evaluate"):
            return None  # these last; their end is reported
        return work.result()

    def stop_at(self, last: int) -> None:
        """Set the end of the training, while it runs too."""
        assert self.loop is not None
        self.loop.last = last

    def probe(self, frame: int) -> None:
        """Look at a frame, while the ticks run."""
        assert self.loop is not None
        self.loop.probe.ask(frame)

    def probed(self, seconds: float) -> Finding | None:
        """Wait for what was seen."""
        assert self.loop is not None
        return self.loop.probe.answer(seconds)

    def written(self, seconds: float) -> None:
        """Wait for the checkpoint to be on the disk."""
        assert self._writer is not None
        self._writer.wait(seconds)

    def traced(self, seconds: float) -> Rows:
        """Wait for the last tick that is recorded, but no longer than this."""
        assert self._trace is not None
        return self._trace.rows(seconds)

    def clock(self) -> int:
        """This host's, in ns."""
        return clock()

    def expect_exit(self) -> None:
        """The coordinator has said why the run ends; its end need not be told as well."""
        self.reporter.verbose = False

    # ---- the main thread

    def run(self) -> int:
        """Work until told to quit. Returns the exit code.

        A call that fails is answered with its error; a failing phase ends the process.
        """
        while self._code is None:
            try:
                command, work = self._commands.get(timeout=_IDLE_POLL)
            except queue.Empty:
                self.reporter.tell_signal()
                continue
            try:
                work.set_result(command())
            except (ConfigError, PeerError) as error:
                work.set_exception(error)
                if self.loop is not None:
                    raise
        return self._code

    def do_measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time the model's blocks with the threads and on the device that will run them."""
        device = use_device(config, self.me)
        return measure(build(config, classes).to(device), torch.rand(config.frame_shape, device=device))

    def do_rehearse(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Time this stage of a split, while the others time theirs; None where they would be in each other's way."""
        device = use_device(config, self.me)
        if at_once(device, torch.get_num_threads()) < self.me.local_stages:
            return None
        frames = torch.rand(config.frame_shape, device=device)
        return time_stage(config, build(config, classes).to(device), split, self.me.stage, frames)

    def do_configure(self, plan: Plan) -> Addresses:
        """Build this stage and its edges. May be called again, for another run with the same processes."""
        groups = None
        if self.built is not None:
            self.built.close()
            groups = self.built.groups
        self.reporter.built(use_device(plan.config, self.me))
        self.built = Assembly(plan, self.me, groups)
        self.reporter.every, self.reporter.each_loss = plan.config.report.every, plan.config.report.losses
        self.loop = self.built.loop(self.reporter)
        self.reporter.metrics = self._metrics_of(plan.config)
        address = self.reporter.metrics.address if self.reporter.metrics else ""
        return replace(self.built.addresses, metrics=address)

    def _metrics_of(self, config: Config) -> "StageMetrics | None":
        """This process's metrics, served from when they are first asked for."""
        if not config.metrics.port:
            return None
        from stage_worker.reporting.prometheus import StageMetrics

        self._metrics = self._metrics or StageMetrics(config.metrics, self.me)
        self._metrics.configured(config, use_device(config, self.me))
        return self._metrics

    def do_set_rate(self, rate: float) -> None:
        """Change the learning rate from the next tick on."""
        assert self.built is not None
        self.built.stage.updater.set_rate(rate)

    def do_restore(self, folder: Path, tick: int, in_flight: bool, optimiser: bool) -> None:
        """Become what the stage was at a checkpoint."""
        assert self.built is not None
        checkpoint.restore(self.built, folder, tick, in_flight, optimiser)

    def do_snapshot(self, folder: Path, tick: int) -> None:
        """Copy the state, and begin to write it."""
        assert self.built is not None
        state = checkpoint.copy_state(self.built, tick)
        self._writer = checkpoint.CheckpointWriter(
            state, folder, self.built.groups.checkpoint if self.built.groups else None
        )

    def do_trace(self, first: int, ticks: int) -> None:
        """Record some ticks to come."""
        assert self.loop is not None
        if self._trace is not None:
            self._trace.close()
        self._trace = Tracer(self.loop, first, ticks)

    def do_train(self, first: int) -> None:
        """Run the ticks from `first` until the end that was told."""
        assert self.built is not None
        assert self.loop is not None
        self.built.enter_phase(0)
        self.loop.run(first)
        self.reporter.send("done", tick=self.loop.last)

    def do_evaluate(self, phase: int) -> None:
        """Run an evaluation phase."""
        assert self.built is not None
        self.built.enter_phase(phase)
        inputs, outputs = self.built.evaluation_edges()
        tell = self.reporter.tell_signal
        self._tally = evaluation.run(self.built.stage, inputs, outputs, self.built.targets, tell)
        self.reporter.send("done", tick=0)

    def do_results(self) -> Scores:
        """The last evaluation's sums."""
        return self._tally.scores()

    def do_export(self) -> dict[str, Tensor]:
        """Parameters and buffers of this stage's blocks, copied to the CPU."""
        assert self.built is not None
        stage = self.built.stage
        stage.updater.swap_average()
        tensors = {name: value.detach().to("cpu", copy=True) for name, value in stage.blocks.state_dict().items()}
        stage.updater.swap_average()
        return tensors

    def do_quit(self, code: int) -> None:
        """End after answering."""
        self.reporter.allow_coordinator_exit()
        self._code = code
