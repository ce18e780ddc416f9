"""The parts of a stage worker for one run: blocks, device, edges to the neighbours, frame and target intakes."""

from functools import partial

import torch
from torch import nn

from common.config.settings import Config
from common.errors import ConfigError
from common.messages.stage_calls import Addresses, Plan
from common.models import build, part
from common.models.synced_norm import set_gather
from common.models.temporal import memories
from common.partition.balance import check_split
from common.processes.deadlines import for_edges
from common.processes.membership import Membership
from common.rule.graphed_stage import GraphedStage
from common.rule.memory_format import with_memory_format
from common.rule.schedule import Schedule
from common.rule.stage import Stage
from common.rule.stage_factory import make_stage
from common.rule.tasks import without_loss
from common.telemetry.spans import WorkClock
from stage_worker.cuda_graphs import recorder_of
from stage_worker.device import use_device
from stage_worker.device_pace import DevicePace
from stage_worker.edges.connect import Edges, LocalEdges
from stage_worker.edges.intakes import frame_intake, target_intake
from stage_worker.edges.ports import EdgePorts
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.stage_ports import evaluation_ports, training_ports
from stage_worker.edges.transport import on_gpus
from stage_worker.loop import SidewaysLoop, TickLoop
from stage_worker.replicas import GradientMean, ReplicaGroup
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter
from stage_worker.stage_shapes import StageShapes, stage_shapes
from stage_worker.stage_stream import StageStream


class Assembly:
    """One stage, built from the coordinator's plan.

    Attributes:
        stage: the blocks and their optimiser.
        frames, targets: intakes for the coordinator's frames and targets; None where the stage gets none.
        ports: its connections for training.
        work: sums the time of each kind of work.
        groups: the process groups; None if there is no other process.
        edges: to the neighbours; None for a single stage.
        replicas: the replicas of this stage; None if it has none.
        loop: runs the ticks.
        pace: keeps a loop close to its GPU.
        stream: on which it computes.
        probe: samples the stage's pseudo-gradient on request.
        number: of this replica.
        origin: the tick at which the pipeline starts empty.
    """

    def __init__(
        self,
        plan: Plan,
        me: Membership,
        groups: Groups | None,
        replicas: ReplicaGroup | None,
        local: LocalEdges | None = None,
    ) -> None:
        """Build the stage. stage_worker/edges/neighbours.py connects its edges then, and `complete` makes it ready.

        Args:
            me: concerning this stage.
            local: the edges between the stages of this process.

        Raises:
            ConfigError: the model, split, device or task do not fit together.
        """
        device = use_device(plan.config, me)
        _check_exact(plan.config, me, device)
        model = build(plan.config, plan.classes)
        check_split(plan.split, len(model))
        config = with_memory_format(plan.config, model, on_gpus(plan.config, me))
        parts = [part(model, plan.split, stage) for stage in range(me.stages)]
        schedule = Schedule(me.stages, config.edge_ticks)
        shapes = stage_shapes(me.stage, parts, config, schedule, device)
        labels = without_loss(config, plan.classes).form
        self._config, self._me, self._device, self._schedule, self._shapes = config, me, device, schedule, shapes
        self._remembering = {stage for stage, blocks in enumerate(parts) if memories(blocks)}
        self.origin, self.number, self.groups, self.replicas = plan.origin, me.of_replica, groups, replicas
        self.work, self.probe = WorkClock(), StageProbe()
        self.pace = DevicePace(device, me.stage, for_edges(config.network.deadline))
        self.stream = StageStream(device, alone=len(me.held) == 1)
        self.stage = _stage(parts[me.stage].to(device), plan, config, me, shapes, device)
        self.edges = Edges(config, me, shapes.links, device, self.work, labels, local) if me.stages > 1 else None
        self.frames = frame_intake(config, me, device, labels, self.work) if self.stage.is_first else None
        self.targets = target_intake(config, me, device, shapes.output, self.work) if self.stage.is_top else None

    def complete(self, reporter: Reporter) -> None:
        """Make the stage ready, once its edges are connected. Raises ConfigError if it cannot be compiled."""
        config = self._config
        if config.compile:
            (rows, *rest), dtype = self._shapes.input
            self.stage.warm_up([rows // config.micro_batch_count, *rest], dtype, self._device)
        self.ports = self._intakes
        if self.edges is not None and not config.exact_gradients:  # torch's schedules have connections of their own
            self.ports = training_ports(self.ports, self.edges, self._schedule, self.origin)
        self.loop = self._loop(reporter)
        if self.replicas is not None:
            replicas = self.replicas
            self.stage.mean = GradientMean(replicas, self.stage.parameters, lambda: self.loop.tick, self.work)
            set_gather(self.stage.blocks, lambda own: replicas.gather(own, self.loop.tick))

    def _loop(self, reporter: Reporter) -> TickLoop:
        """The loop of the algorithm. A single stage has `SidewaysLoop` for all, which then is backpropagation."""
        own = self.stage, self.ports, reporter, self.work, self.pace, self.stream
        if not self._config.exact_gradients or self._me.stages == 1:
            return SidewaysLoop(*own, self.probe)
        assert self.groups is not None
        from stage_worker.exact_loop import ExactLoop  # torch's pipelining takes seconds to import

        return ExactLoop(*own, self.groups, (self._shapes.input, self._shapes.output), self._remembering)

    @property
    def addresses(self) -> Addresses:
        """The addresses at which this stage listens for frames and targets."""
        frames, targets = (intake.socket.address if intake else "" for intake in (self.frames, self.targets))
        return Addresses(frames, targets, memory=self.frames.socket.memory if self.frames else "")

    @property
    def _intakes(self) -> EdgePorts:
        """Ports without edges."""
        return EdgePorts(self._device, self.frames, self.targets)

    def evaluation_ports(self) -> EdgePorts:
        """Ports for an evaluation."""
        return self._intakes if self.edges is None else evaluation_ports(self._intakes, self.edges, self._schedule)

    def enter_phase(self, phase: int) -> None:
        """Expect frames and targets of this phase: 0 for training; evaluations are numbered from 1."""
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.phase = phase

    def disconnect(self) -> None:
        """Close the edges, so that the neighbours need not wait for this stage."""
        if self.edges is not None:
            self.edges.close()

    def close(self) -> None:
        """Close the sockets and edges."""
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.socket.close()
        self.disconnect()


def _check_exact(config: Config, me: Membership, device: torch.device) -> None:
    """Raise ConfigError if torch's own schedules cannot run here."""
    if not config.exact_gradients or me.stages == 1 or device.type == "cpu":
        return
    if not me.own_devices or config.network.transport == "gloo":
        raise ConfigError(
            f'algorithm = "{config.algorithm}" on CUDA uses NCCL, which needs a device for every stage and '
            f'network.transport = "auto": give each stage a device, or set device = "cpu"'
        )


def _stage(
    blocks: nn.Sequential, plan: Plan, config: Config, me: Membership, shapes: StageShapes, device: torch.device
) -> Stage:
    """The stage's blocks and optimiser; recorded as CUDA graphs if they can be."""
    recorder = recorder_of(config, blocks, device, me.stage, me.replicas)
    kind = partial(GraphedStage, recorder=recorder) if recorder is not None else Stage
    own = me.stage, config, shapes.outputs, plan.classes, plan.total_ticks, device, me.of_replica, kind
    return make_stage(blocks, *own)
