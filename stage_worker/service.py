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

from common import partition
from common.config import Config, share_of_threads
from common.control import Addresses, Plan, Scores
from common.errors import ConfigError, PeerError
from common.group import Groups, Membership, start_groups
from common.models import activation_shapes, build, part
from common.packet import Packet
from common.partition import BlockCost
from common.schedule import Schedule
from common.stage import Stage
from stage_worker import evaluation
from stage_worker.intake import FrameIntake, Inlet, TargetIntake
from stage_worker.links import Peer, Receiver, Sender, agree
from stage_worker.loop import Loop, Ports
from stage_worker.reports import Reporter

_IDLE_POLL = 0.25  # seconds between looks at a stop signal while there is nothing to do


class StageService:
    """One stage worker: what it is built of, and its main thread."""

    def __init__(self, me: Membership, reporter: Reporter) -> None:
        self.me, self.reporter = me, reporter
        self.loop: Loop | None = None
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.frames: FrameIntake | None = None
        self.targets: TargetIntake | None = None
        self._groups: Groups | None = None
        self._tally = evaluation.Tally()
        self._quitting = False

    # ---- called in RPC threads

    def handle(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Answer one call of common/control.py."""
        if method == "stop_at":
            return self.stop_at(*arguments)
        work: Future[Any] = Future()
        self._commands.put((lambda: getattr(self, f"do_{method}")(*arguments), work))
        if method in ("train", "evaluate"):
            return None  # these last; their end is reported
        return work.result()

    def stop_at(self, last: int) -> None:
        """Move the end of the running training."""
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
        torch.set_num_threads(share_of_threads(config, self.me.local_stages))
        device = self._device(config)
        model = build(config, classes).to(device)
        return partition.measure(model, torch.rand(_frame_shape(config), device=device))

    def do_configure(self, plan: Plan) -> Addresses:
        """Build this stage and its edges, and agree with the neighbours on what passes between them.

        May be called again, for another run with the same processes.
        """
        self._close_intakes()
        config, me = plan.config, self.me
        torch.set_num_threads(share_of_threads(config, me.local_stages))
        self._config, self._device_used = config, self._device(config)
        self._wire, backend = self._transport(config)
        model = build(config, plan.classes)
        partition.check_split(plan.split, len(model))
        parts = [part(model, plan.split, stage) for stage in range(me.stages)]
        shapes = [(torch.Size(_frame_shape(config)), torch.float32)]
        shapes += activation_shapes(parts[: me.stage + 1], _frame_shape(config))
        self._takes, self._gives = shapes[me.stage], shapes[me.stage + 1]
        blocks = parts[me.stage].to(self._device_used)
        self.stage = Stage(blocks, me.stage, me.stages, config.task, config.rule, config.optimiser)
        self.reporter.every, self.reporter.each_loss = config.report.every, config.report.losses
        if me.stages > 1:
            self._groups = self._groups or start_groups(me, backend)
            agree(self._groups.forward, me.stage, me.stages, self._takes, self._gives, config.network.deadline)
        self.frames, self.targets = self._frame_intake(), self._target_intake()
        self.loop = Loop(self.stage, self._training_ports(), self.reporter, config.network.overlap)
        return Addresses(
            self.frames.inlet.address if self.frames else "", self.targets.inlet.address if self.targets else ""
        )

    def do_train(self, first: int, last: int) -> None:
        """Run the ticks first … last - 1."""
        assert self.loop is not None
        self._enter_phase(0)
        self.loop.last = last
        self.loop.run(first)
        self.reporter.send("done", tick=self.loop.last)

    def do_evaluate(self, phase: int) -> None:
        """Run an evaluation phase."""
        self._enter_phase(phase)
        inputs, outputs = self._evaluation_edges()
        targets = self.targets
        self._tally = evaluation.run(self.stage, inputs, outputs, targets)
        self.reporter.send("done", tick=0)

    def do_results(self) -> Scores:
        """The last evaluation's sums."""
        return self._tally.scores()

    def do_export(self) -> dict[str, Tensor]:
        """Parameters and buffers of this stage's blocks, copied to the CPU."""
        return {name: value.detach().cpu() for name, value in self.stage.blocks.state_dict().items()}

    def do_quit(self) -> None:
        """End after answering."""
        self.reporter.expect_farewell()
        self._quitting = True

    # ---- building

    def _device(self, config: Config) -> torch.device:
        if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise ConfigError('device = "cuda", but this host has no CUDA device: use "auto" or "cpu"')
        return torch.device("cuda", self.me.local_stage % torch.cuda.device_count())

    def _transport(self, config: Config) -> tuple[torch.device, Any]:
        """Device that the wire reads and the backend: NCCL between devices of their own, else gloo from the host."""
        possible = self._device_used.type == "cuda" and self.me.own_devices
        wanted = config.network.transport
        if wanted == "nccl" and not possible:
            raise ConfigError('network.transport = "nccl" needs a CUDA device for every stage: use "auto" or "gloo"')
        if possible and wanted != "gloo":
            torch.cuda.set_device(self._device_used)
            return self._device_used, "nccl"
        return torch.device("cpu"), "gloo"

    def _frame_intake(self) -> FrameIntake | None:
        if not self.stage.is_first:
            return None
        inlet = self._inlet("stage 0", queue=4)
        packet = Packet(self._takes[0], self._takes[1], self._device_used)
        return FrameIntake(inlet, packet, self._config.data.mean, self._config.data.std)

    def _target_intake(self) -> TargetIntake | None:
        if not self.stage.is_top or self._config.task != "autoencode":
            return None
        shape = torch.Size(_frame_shape(self._config))
        if self._gives[0] != shape:
            raise ConfigError(
                f'task = "autoencode" compares the model\'s output with the frame, but the output is '
                f"{list(self._gives[0])} and the frame {list(shape)}: change the model or data.size"
            )
        # targets wait here while their frames climb: D of them, and the frames under way to stage 0
        inlet = self._inlet(f"stage {self.me.stage} (targets)", queue=self.me.stages + 8)
        out = torch.zeros(shape, device=self._device_used)
        return TargetIntake(inlet, out, self._config.data.mean, self._config.data.std)

    def _inlet(self, what: str, queue: int) -> Inlet:
        network = self._config.network
        return Inlet(network.host, queue, _frame_shape(self._config), network.max_message, network.deadline, what)

    def _training_ports(self) -> Ports:
        schedule, i = Schedule(self.me.stages), self.me.stage
        inputs = self.frames if self.frames else self._receiver("forward", i - 1, schedule.first_input(i))
        has_above = not self.stage.is_top
        return Ports(
            inputs=inputs,
            outputs=self._sender("forward", i + 1) if has_above else None,
            gradients_in=self._receiver("backward", i + 1, schedule.first_gradient(i)) if has_above else None,
            gradients_out=self._sender("backward", i - 1) if i > 0 else None,
            targets=self.targets,
        )

    def _evaluation_edges(self) -> tuple[FrameIntake | Receiver, Sender | None]:
        """Edges of their own, so that what training has in flight stays where it is."""
        i = self.me.stage
        inputs = self.frames if self.frames else self._receiver("forward", i - 1, i, evaluation=True)
        return inputs, None if self.stage.is_top else self._sender("forward", i + 1, evaluation=True)

    def _receiver(self, way: str, neighbour: int, first_tick: int, evaluation: bool = False) -> Receiver:
        return Receiver(self._peer(way, neighbour, evaluation), self._packets(way, neighbour), first_tick)

    def _sender(self, way: str, neighbour: int, evaluation: bool = False) -> Sender:
        return Sender(
            self._peer(way, neighbour, evaluation), self._packets(way, neighbour), self._config.network.overlap
        )

    def _peer(self, way: str, neighbour: int, evaluation: bool) -> Peer:
        assert self._groups is not None
        group = self._groups.forward if way == "forward" else self._groups.backward
        # stage 0's wait for frames has the plain deadline, so that a starving pipeline is blamed on the reader
        return Peer(group, self.me.stage, neighbour, 1.25 * self._config.network.deadline, tag=int(evaluation))

    def _packets(self, way: str, neighbour: int) -> list[Packet]:
        shape, dtype = self._takes if neighbour < self.me.stage else self._gives
        return [Packet(shape, dtype, self._device_used, self._wire) for _ in range(2)]

    def _close_intakes(self) -> None:
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.inlet.close()

    def _enter_phase(self, phase: int) -> None:
        for intake in (self.frames, self.targets):
            if intake is not None:
                intake.phase = phase


def _frame_shape(config: Config) -> tuple[int, int, int, int]:
    data = config.data
    return data.slots, data.channels, data.size, data.size
