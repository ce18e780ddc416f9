"""Answers the coordinator's calls: builds the stages of this process, trains, evaluates, writes checkpoints.

consumes   calls, in RPC threads. Those that may come while the main thread works (such as stop_at) are answered there
produces   answers; a report of each stage at the end of a phase
waits for  the next call, in the main thread. It runs all other calls one at a time, so the tick loop needs no lock

A worker holds one stage, or several neighbouring ones if there are fewer GPUs than stages. Calls that concern all of
them at once are answered here, all others by service.py, stage by stage.
"""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError, PeerError
from common.messages.stage_calls import Addresses, Plan, handling
from common.models import build, part
from common.models.shapes import activation_shapes
from common.processes.deadlines import for_edges
from common.processes.membership import Membership
from common.rule.packet import packet_bytes
from common.rule.tasks import without_loss
from common.rule.wire import wire_spec
from stage_worker import checkpoint, evaluation
from stage_worker.device import use_device
from stage_worker.edges.connect import LocalEdges
from stage_worker.edges.link_delay import measure_delays
from stage_worker.edges.neighbours import connect_edges
from stage_worker.edges.process_groups import Groups
from stage_worker.loop import run_ticks
from stage_worker.reporting.reporter import Reporter
from stage_worker.service import StageService

_IDLE_POLL = 0.25  # seconds between checks for a stop signal while idle


class Worker:
    """The stages of this process, and the main loop that handles calls.

    Attributes:
        held: the stages, from the bottom.
    """

    def __init__(self, me: Membership, reporters: Sequence[Reporter]) -> None:
        """`reporters`: of the stages, from the bottom."""
        self._me = me
        self.held = [StageService(me.at(stage), own) for stage, own in zip(me.held, reporters, strict=True)]
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._groups: Groups | None = None
        self._configured = False
        self._writer: checkpoint.CheckpointWriter | None = None
        self._code: int | None = None

    def handle(self, call: str, stages: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Answer one call to some of the stages, with a value for each; runs in an RPC thread."""
        handled = handling(call)
        method = self._together(call, args, kwargs) if handled.together else self._each(call, stages, args, kwargs)
        if handled.in_rpc_thread:
            return method()
        answer: Future[list[Any]] = Future()
        self._work.put((method, answer))
        return [None for _ in stages] if handled.returns_early else answer.result()

    def _together(self, call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            found = getattr(self, call)(*args, **kwargs)
            return [None for _ in self.held] if found is None else found

        return run

    def _each(
        self, call: str, stages: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], list[Any]]:
        methods = [getattr(self.held[stage - self._me.held[0]], call) for stage in stages]
        return lambda: [method(*args, **kwargs) for method in methods]

    def run(self) -> int:
        """Run queued calls until `quit`. Returns the exit code.

        A call's ConfigError or PeerError is sent as its answer; once the stages are configured it is also raised.
        """
        while self._code is None:
            try:
                method, answer = self._work.get(timeout=_IDLE_POLL)
            except queue.Empty:
                self._idle()
                continue
            try:
                answer.set_result(method())
            except (ConfigError, PeerError) as error:
                answer.set_exception(error)
                if self._configured:
                    raise
        return self._code

    def _idle(self) -> None:
        for stage in self.held:
            stage.reporter.tell_signal()
            if stage.coordinator_gone:
                raise PeerError(f"{self.place}: the coordinator is gone")

    @property
    def place(self) -> str:
        """The stages and, during training, the tick, for error messages."""
        return " and ".join(stage.place for stage in self.held)

    # ---- calls that concern all stages of this process

    def link_delay(self, config: Config, classes: int, split: list[int], tick: float) -> list[float]:
        """Measure the link to the process above."""
        me, model = self._me, build(config, classes)
        if me.processes == 1:
            return [0.0 for _ in self.held]
        specs = activation_shapes([part(model, split, stage) for stage in range(me.stages)], config.frame_shape)
        tops = range(me.stages_each - 1, me.stages - 1, me.stages_each)  # below the edges between processes
        hosts = [me.stage_member(top).host for top in (*tops, -1)]
        sent, labels = [wire_spec(config.network.wire, specs[top]) for top in tops], without_loss(config, classes).form
        sizes = [
            packet_bytes(*spec, labels) * (below != above)
            for spec, (below, above) in zip(sent, pairwise(hosts), strict=True)
        ]
        groups, own = self._form_groups(config), me.process_of(me.stage)
        assert groups is not None
        found = measure_delays(groups.forward, own, me.processes, sizes, tick, config.network.deadline)
        return [0.0 for _ in self.held[1:]] + [found]

    def _form_groups(self, config: Config) -> Groups | None:
        """The process groups, formed at the first call; None if there is no other process."""
        if self._groups is None and self._me.processes > 1:
            self._groups = Groups(self._me, for_edges(config.network.deadline))
        return self._groups

    def configure(self, plan: Plan) -> list[Addresses]:
        """Build the stages and their edges. May be called again for another run with the same processes."""
        local: LocalEdges = {}
        groups = self._form_groups(plan.config)
        built = [stage.build(plan, groups, local) for stage in self.held]
        connect_edges([one.edges for one in built if one.edges], groups, use_device(plan.config, self._me))
        addresses = [stage.complete() for stage in self.held]
        self._configured = True
        return addresses

    def train(self, first: int) -> None:
        """Run the ticks from `first`."""
        for stage in self.held:
            stage.begin_training(first)
        run_ticks([stage.built.loop for stage in self.held], first)
        for stage in self.held:
            stage.end_training()

    def evaluate(self, phase: int) -> None:
        """Run an evaluation phase."""
        phases = [stage.evaluation(phase) for stage in self.held]
        evaluation.run(phases)
        for stage, own in zip(self.held, phases, strict=True):
            stage.end_evaluation(own.sums)

    def checkpoint(self, folder: Path, tick: int, regroup: bool) -> None:
        """Copy the state, and start writing it in the background."""
        if regroup and self._groups is not None:
            self._groups.renew_checkpoint()
        state: dict[str, Tensor] = {}
        for stage in self.held:
            state |= checkpoint.copy_state(stage.built, tick)
        group = self._groups.checkpoint if self._groups else None
        self._writer = checkpoint.CheckpointWriter(
            state, checkpoint.folder_of_replica(folder, self._me.of_replica), group
        )

    def checkpoint_written(self, seconds: float) -> None:
        """Wait until the checkpoint is on disk."""
        assert self._writer is not None
        self._writer.wait(seconds)

    def quit(self, code: int) -> None:
        """End `run` after answering."""
        for stage in self.held:
            stage.leave()
        self._code = code

    # ---- the end after a loss

    def keep_snapshots(self) -> None:
        """This process ends because it has lost a peer: keep its stages' state. The peers are told at once."""
        for stage in self.held:
            stage.disconnect()
        for stage in self.held:
            stage.keep_snapshot()
