"""The stage's side of the control channel: builds the stage, and runs what the coordinator asks for.

Calls arrive in RPC threads. All but `stop_at`, which only moves a number, are handed to the main thread, one after
another: the tick loop shares nothing with other threads and needs no lock.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from common.config import Config
from common.control import Addresses, Plan, Scores
from common.errors import ConfigError, PeerError
from common.group import Membership
from common.models import build
from common.partition import BlockCost, measure
from stage_worker import evaluation
from stage_worker.assembly import Assembly, use_device
from stage_worker.loop import Loop
from stage_worker.reports import Reporter

_IDLE_POLL = 0.25  # seconds between looks at a stop signal while there is nothing to do


class StageService:
    """One stage worker: what it is built of, and its main thread."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        self.me, self.reporter = me, reporter
        self.loop: Loop | None = None
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.built: Assembly | None = None
        self._tally = evaluation.Tally()
        self._quitting = False

    # ---- called in RPC threads

    def handle(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Answer one call of common/control.py."""
        if method == "stop_at":
            return self.stop_at(*arguments)
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

    # ---- the main thread

    def run(self) -> None:
        """Work until told to quit. A call that fails is answered with its error; a failing phase ends the process."""
        while not self._quitting:
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

    def do_measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time the model's blocks with the threads and on the device that will run them."""
        device = use_device(config, self.me)
        return measure(build(config, classes).to(device), torch.rand(config.frame_shape, device=device))

    def do_configure(self, plan: Plan) -> Addresses:
        """Build this stage and its edges. May be called again, for another run with the same processes."""
        groups = None
        if self.built is not None:
            self.built.close()
            groups = self.built.groups
        self.built = Assembly(plan, self.me, groups)
        self.reporter.every, self.reporter.each_loss = plan.config.report.every, plan.config.report.losses
        self.loop = Loop(self.built.stage, self.built.ports, self.reporter, plan.config.network.overlap)
        return self.built.addresses

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
        self._tally = evaluation.run(self.built.stage, inputs, outputs, self.built.targets)
        self.reporter.send("done", tick=0)

    def do_results(self) -> Scores:
        """The last evaluation's sums."""
        return self._tally.scores()

    def do_export(self) -> dict[str, Tensor]:
        """Parameters and buffers of this stage's blocks, copied to the CPU."""
        assert self.built is not None
        return {name: value.detach().cpu() for name, value in self.built.stage.blocks.state_dict().items()}

    def do_quit(self) -> None:
        """End after answering."""
        self.reporter.expect_farewell()
        self._quitting = True
