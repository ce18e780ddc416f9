"""The parts of a stage worker for one run: blocks, device, edges to the neighbours, frame and target intakes."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from common.config.settings import Config, share_of_threads
from common.errors import ConfigError
from common.messages.stage_calls import BUILDING, Addresses, Plan
from common.models import activation_shapes, build, part
from common.partition.balance import check_split
from common.processes.membership import Membership
from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.stage import Stage, casting
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges.connect import Edges
from stage_worker.edges.frame_intake import FrameIntake, FrameSocket, TargetIntake
from stage_worker.edges.handshake import TensorSpec, agree
from stage_worker.edges.ports import EdgePorts
from stage_worker.edges.process_groups import Groups
from stage_worker.loop import Loop
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter

if TYPE_CHECKING:
    from stage_worker.exact_loop import ExactLoop

_FRAMES_QUEUED = 4  # batches queued in stage 0's socket at most


class Assembly:
    """One stage, built from the coordinator's plan.

    Attributes:
        stage: the blocks and their optimiser.
        frames, targets: intakes for the coordinator's frames and targets; None where the stage gets none.
        ports: its connections for training.
        work: sums the time of each kind of work.
        groups: the process groups, to be passed to the next assembly of this process; None for a single stage.
        loop: runs the ticks.
        probe: samples the stage's pseudo-gradient on request.
        origin: the tick at which the pipeline starts empty.
    """

    def __init__(self, plan: Plan, me: Membership, groups: Groups | None, reporter: Reporter) -> None:
        """Build the stage, and agree with the neighbours on the shapes and dtypes of the tensors between them.

        Raises:
            ConfigError: the model, split, device, transport or task do not fit together.
            PeerError: a neighbour expects another shape or dtype, or does not answer.
        """
        config = plan.config
        self._config, self._me, self.origin = config, me, plan.origin
        self._device = use_device(config, me)
        self._wire, backend = self._transport()
        model = build(config, plan.classes)
        check_split(plan.split, len(model))
        parts = [part(model, plan.split, stage) for stage in range(me.stages)]
        self._input_spec, self._output_spec = self._specs(parts[: me.stage + 1])
        self.stage = Stage(parts[me.stage].to(self._device), me.stage, config, plan.planned)
        self.groups = groups
        self.work = WorkClock()
        self._edges: Edges | None = None
        if me.stages > 1:
            self.groups = groups or Groups(me, backend, 1.25 * config.network.deadline)
            timeout = config.network.deadline + BUILDING
            agree(self.groups.forward, me.stage, me.stages, self._input_spec, self._output_spec, timeout)
            devices = self._device, self._wire
            self._edges = Edges(config, me, self.groups, (self._input_spec, self._output_spec), devices, self.work)
        if config.compile:
            rows, *rest = self._input_spec[0]
            self.stage.warm_up([rows // config.parts, *rest], self._input_spec[1], self._device)
        self.frames, self.targets = self._frame_intake(), self._target_intake()
        self.ports = self._training_ports()
        self.probe = StageProbe()
        self.loop = self._loop(reporter)

    def _specs(self, parts: list[nn.Sequential]) -> tuple[TensorSpec, TensorSpec]:
        """Shape and dtype of the input and the output of the last of `parts`."""
        config = self._config
        if config.precision != "float32":  # which layers output bfloat16 depends on the device
            parts = [part.to(self._device) for part in parts]
        with casting(config, self._device):
            shapes = activation_shapes(parts, config.frame_shape)
        below = shapes[-2] if len(parts) > 1 else (torch.Size(config.frame_shape), torch.float32)
        return below, shapes[-1]

    def _loop(self, reporter: Reporter) -> "Loop | ExactLoop":
        """The loop of the algorithm. A single stage uses `Loop` for all of them, which then is backpropagation."""
        if not self._config.exact or self.groups is None:
            return Loop(self.stage, self.ports, reporter, self.work, self.probe)
        from stage_worker.exact_loop import ExactLoop  # torch's pipelining takes seconds to import

        specs = self._input_spec, self._output_spec
        return ExactLoop(self.stage, self.ports, reporter, self.work, self.groups, specs, self._wire)

    @property
    def addresses(self) -> Addresses:
        """The addresses at which this stage listens for frames and targets."""
        frames, targets = (intake.socket.address if intake else "" for intake in (self.frames, self.targets))
        return Addresses(frames, targets, memory=self.frames.socket.memory if self.frames else "")

    def evaluation_ports(self) -> EdgePorts:
        """Ports for an evaluation, with edges of their own, so that training packets in flight are left alone."""
        edges, stage = self._edges, self.stage
        return EdgePorts(
            self._device,
            frames=self.frames,
            targets=self.targets,
            inputs=edges.receiver("evaluation", self._me.stage) if edges and not stage.is_first else None,
            outputs=edges.sender("evaluation") if edges and not stage.is_top else None,
        )

    def enter_phase(self, phase: int) -> None:
        """Expect frames and targets of this phase: 0 for training; evaluations are numbered from 1."""
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.phase = phase

    def close(self) -> None:
        """Close the sockets and edges."""
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.socket.close()
        if self._edges is not None:
            self._edges.close()

    def _transport(self) -> tuple[torch.device, Literal["gloo", "nccl"]]:
        """The device of the transfer buffers, and the backend: NCCL if every stage has its own GPU, else gloo (CPU)."""
        nccl_possible = self._device.type == "cuda" and self._me.own_devices
        transport = self._config.network.transport
        if transport == "nccl" and not nccl_possible:
            raise ConfigError('network.transport = "nccl" needs a CUDA device for every stage: use "auto" or "gloo"')
        if nccl_possible and transport != "gloo":
            torch.cuda.set_device(self._device)
            return self._device, "nccl"
        if self._config.exact and self._me.stages > 1 and self._device.type == "cuda":
            raise ConfigError(
                f'algorithm = "{self._config.algorithm}" on CUDA uses NCCL, which needs a device for every stage and '
                f'network.transport = "auto": give each stage a device, or set device = "cpu"'
            )
        return torch.device("cpu"), "gloo"

    def _frame_intake(self) -> FrameIntake | None:
        if not self.stage.is_first:
            return None
        shares = self._me.on_coordinator_host and self._config.network.transport != "gloo"
        network, shape = self._config.network, self._config.frame_shape
        socket = FrameSocket(self._me, network, shape, _FRAMES_QUEUED, "stage 0", shares, self.work)
        packet = Packet(self._input_spec[0], self._input_spec[1], self._device)
        return FrameIntake(socket, packet, self._config.data.mean, self._config.data.std)

    def _target_intake(self) -> TargetIntake | None:
        if not self.stage.is_top or self._config.task == "classify":
            return None
        shape = torch.Size(self._config.frame_shape)
        if self._output_spec[0] != shape:
            raise ConfigError(
                f'task = "{self._config.task}" compares the model\'s output with the frame, but the output is '
                f"{list(self._output_spec[0])} and the frame {list(shape)}: change the model or data.size"
            )
        # targets wait here until their frames reach the top: D of them, and those of frames still queued for stage 0
        network, queue, what = self._config.network, self._me.stages + 8, f"stage {self._me.stage} (targets)"
        socket = FrameSocket(self._me, network, shape, queue, what, work=self.work, wait=Kind.WAIT_TARGETS)
        out = torch.zeros(shape, device=self._device)
        return TargetIntake(socket, out, self._config.data.mean, self._config.data.std)

    def _training_ports(self) -> EdgePorts:
        edges, i = self._edges, self._me.stage
        ports = EdgePorts(self._device, self.frames, self.targets)
        if self._config.exact or edges is None:  # torch's schedules have connections of their own, a single stage none
            return ports
        schedule, origin, has_above = Schedule(self._me.stages), self.origin, not self.stage.is_top
        return replace(
            ports,
            inputs=edges.receiver("forward", origin + schedule.first_input(i)) if i > 0 else None,
            outputs=edges.sender("forward") if has_above else None,
            gradients_in=edges.receiver("backward", origin + schedule.first_gradient(i)) if has_above else None,
            gradients_out=edges.sender("backward") if i > 0 else None,
        )


def use_device(config: Config, me: Membership) -> torch.device:
    """Set torch's number of threads, and return the stage's device. Raises ConfigError if the host lacks CUDA."""
    torch.set_num_threads(share_of_threads(config, me.local_stages))
    device = _device(config, me)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
    torch.use_deterministic_algorithms(config.deterministic and device.type == "cuda", warn_only=True)
    return device


def _device(config: Config, me: Membership) -> torch.device:
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError('device = "cuda", but this host has no CUDA device: use "auto" or "cpu"')
    return torch.device("cuda", me.local_stage % torch.cuda.device_count())
