"""The parts of a stage worker for one run: blocks, device, edges to the neighbours, frame and target intakes."""

import copy
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from common.errors import ConfigError
from common.messages.stage_calls import Addresses, Plan
from common.models import build, part
from common.models.shapes import TensorSpec, activation_shapes
from common.models.synced_norm import set_gather
from common.models.temporal import memories
from common.partition.balance import check_split
from common.processes.deadlines import for_edges
from common.processes.membership import Membership
from common.rule.graphed_stage import GraphedStage
from common.rule.memory_format import arranged, with_memory_format
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from common.rule.precision import casting
from common.rule.schedule import Schedule
from common.rule.skips import targets
from common.rule.stage import Stage
from common.rule.stage_factory import make_stage
from common.rule.tasks import without_loss
from common.telemetry.spans import Kind, WorkClock
from stage_worker.cuda_graphs import recorder_of
from stage_worker.device import use_device
from stage_worker.device_pace import DevicePace
from stage_worker.edges.connect import Edges, LocalEdges
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.frame_intake import FrameIntake
from stage_worker.edges.frame_socket import FrameSocket
from stage_worker.edges.links import links_of
from stage_worker.edges.ports import EdgePorts
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.target_intake import TargetIntake
from stage_worker.edges.transport import on_gpus
from stage_worker.loop import SidewaysLoop, TickLoop
from stage_worker.replicas import GradientMean, ReplicaGroup
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter
from stage_worker.stage_stream import StageStream

_End = TypeVar("_End", Receiver, Sender)
_FRAMES_QUEUED = 4  # batches queued in stage 0's socket at most


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
        config = plan.config
        self._config, self._me, self.origin, self.number = config, me, plan.origin, me.of_replica
        self._schedule = Schedule(me.stages, config.edge_ticks)
        self._device = use_device(config, me)
        self._check_exact()
        model = build(config, plan.classes)
        config = self._config = with_memory_format(config, model, on_gpus(config, me))
        check_split(plan.split, len(model))
        self._labels = without_loss(config, plan.classes).form
        parts = [part(model, plan.split, stage) for stage in range(me.stages)]
        outputs = self._specs(parts[: max((me.stage + 1, *targets(config.skip_pairs, me.stage)))])
        self._input_spec: TensorSpec = (torch.Size(config.frame_shape), torch.float32)
        if me.stage:
            self._input_spec = outputs[me.stage - 1]
        self._output_spec = outputs[me.stage]
        self._links = links_of(me.stage, self._schedule, config.skip_pairs, outputs)
        self._remembering = {stage for stage, blocks in enumerate(parts) if memories(blocks)}
        blocks = parts[me.stage].to(self._device)
        classes, total_ticks = plan.classes, plan.total_ticks
        recorder = recorder_of(config, blocks, self._device, me.stage, me.replicas)
        kind = partial(GraphedStage, recorder=recorder) if recorder is not None else Stage
        self.stage = make_stage(
            blocks, me.stage, config, outputs, classes, total_ticks, self._device, me.of_replica, kind
        )
        self.groups, self.replicas = groups, replicas
        self.work = WorkClock()
        self.edges: Edges | None = None
        if me.stages > 1:
            self.edges = Edges(config, me, self._links, self._device, self.work, self._labels, local)
        self.frames, self.targets = self._frame_intake(), self._target_intake()
        self.probe = StageProbe()
        self.pace = DevicePace(self._device, me.stage, for_edges(config.network.deadline))
        self.stream = StageStream(self._device, alone=len(me.held) == 1)

    def complete(self, reporter: Reporter) -> None:
        """Make the stage ready, once its edges are connected. Raises ConfigError if it cannot be compiled."""
        config = self._config
        if config.compile:
            rows, *rest = self._input_spec[0]
            self.stage.warm_up([rows // config.micro_batch_count, *rest], self._input_spec[1], self._device)
        self.ports = self._training_ports()
        self.loop = self._loop(reporter)
        if self.replicas is not None:
            replicas = self.replicas
            self.stage.mean = GradientMean(replicas, self.stage.parameters, lambda: self.loop.tick, self.work)
            set_gather(self.stage.blocks, lambda own: replicas.gather(own, self.loop.tick))

    def _check_exact(self) -> None:
        """Raise ConfigError if torch's own schedules cannot run here."""
        if not self._config.exact_gradients or self._me.stages == 1 or self._device.type == "cpu":
            return
        if not self._me.own_devices or self._config.network.transport == "gloo":
            raise ConfigError(
                f'algorithm = "{self._config.algorithm}" on CUDA uses NCCL, which needs a device for every stage and '
                f'network.transport = "auto": give each stage a device, or set device = "cpu"'
            )

    def _specs(self, parts: list[nn.Sequential]) -> list[TensorSpec]:
        """Shape and dtype of the output of each of `parts`."""
        config = self._config
        if config.precision != "float32":  # which layers output bfloat16 depends on the device
            parts = [copy.deepcopy(part).to(self._device) for part in parts]
        with casting(config, self._device):
            return activation_shapes(parts, config.frame_shape, without_computing=self._device.type == "cuda")

    def _loop(self, reporter: Reporter) -> TickLoop:
        """The loop of the algorithm. A single stage has `SidewaysLoop` for all, which then is backpropagation."""
        own = self.stage, self.ports, reporter, self.work, self.pace, self.stream
        if not self._config.exact_gradients or self._me.stages == 1:
            return SidewaysLoop(*own, self.probe)
        assert self.groups is not None
        from stage_worker.exact_loop import ExactLoop  # torch's pipelining takes seconds to import

        return ExactLoop(*own, self.groups, (self._input_spec, self._output_spec), self._remembering)

    @property
    def addresses(self) -> Addresses:
        """The addresses at which this stage listens for frames and targets."""
        frames, targets = (intake.socket.address if intake else "" for intake in (self.frames, self.targets))
        return Addresses(frames, targets, memory=self.frames.socket.memory if self.frames else "")

    def evaluation_ports(self) -> EdgePorts:
        """Ports for an evaluation, with edges of their own, so that training packets in flight are left alone."""
        edges, links = self.edges, self._links
        ports = EdgePorts(self._device, frames=self.frames, targets=self.targets)
        if edges is None:
            return ports
        schedule = self._schedule
        inputs, skips_in = _parted(
            [edges.receiver("evaluation", s, schedule.first_input(s) + links.ticks[s]) for s in links.below]
        )
        outputs, skips_out = _parted([edges.sender("evaluation", t) for t in links.above])
        return replace(ports, inputs=inputs, outputs=outputs, skips_in=skips_in, skips_out=skips_out)

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

    @property
    def _normaliser(self) -> Normaliser:
        return Normaliser(*self._config.data.normalisation, self._device)

    def _frame_intake(self) -> FrameIntake | None:
        if not self.stage.is_first:
            return None
        shares = self._me.on_feeder_host and self._config.network.transport != "gloo"
        network, shape = self._config.network, self._config.frame_shape
        on_gpu = self._device.type == "cuda"
        socket = FrameSocket(
            self._me,
            network,
            shape,
            _FRAMES_QUEUED,
            "stage 0",
            shares,
            on_gpu,
            self.work,
            pixel_type=self._config.data.pixel_type,
            labels=self._labels,
        )
        last = self._config.channels_last
        packet = Packet(*self._input_spec, self._device, labels=self._labels, channels_last=last)
        return FrameIntake(socket, packet, self._normaliser)

    def _target_intake(self) -> TargetIntake | None:
        if not self.stage.is_top or self._config.has_labels:
            return None
        shape = torch.Size(self._config.frame_shape)
        if self._output_spec[0] != shape:
            raise ConfigError(
                f'task = "{self._config.task}" compares the model\'s output with the frame, but the output is '
                f"{list(self._output_spec[0])} and the frame {list(shape)}: change the model or data.size"
            )
        # targets wait here until their frames reach the top, also those of frames still queued for stage 0
        network, queue, what = self._config.network, self._config.ticks_to_top + 9, f"stage {self._me.stage} (targets)"
        wait, pixels = Kind.WAIT_TARGETS, self._config.data.pixel_type
        socket = FrameSocket(self._me, network, shape, queue, what, work=self.work, wait=wait, pixel_type=pixels)
        out = arranged(torch.zeros(shape, device=self._device), self._config.channels_last)
        return TargetIntake(socket, out, self._normaliser)

    def _training_ports(self) -> EdgePorts:
        edges, links, origin, schedule = self.edges, self._links, self.origin, self._schedule
        ports = EdgePorts(self._device, self.frames, self.targets)
        if edges is None or self._config.exact_gradients:  # torch's schedules have connections of their own
            return ports
        inputs, skips_in = _parted(
            [edges.receiver("forward", s, origin + schedule.first_input(s) + links.ticks[s]) for s in links.below]
        )
        outputs, skips_out = _parted([edges.sender("forward", t) for t in links.above])
        gradients_in, skip_gradients_in = _parted(
            [edges.receiver("backward", t, origin + schedule.first_gradient(t) + links.ticks[t]) for t in links.above]
        )
        gradients_out, skip_gradients_out = _parted([edges.sender("backward", s) for s in links.below])
        return replace(
            ports,
            inputs=inputs,
            outputs=outputs,
            gradients_in=gradients_in,
            gradients_out=gradients_out,
            skips_in=skips_in,
            skips_out=skips_out,
            skip_gradients_in=skip_gradients_in,
            skip_gradients_out=skip_gradients_out,
        )


def _parted(ends: list[_End]) -> tuple[_End | None, list[_End]]:
    """The end at the neighbour, which is the first, if there is one, and those of skips."""
    return (ends[0], ends[1:]) if ends else (None, [])
