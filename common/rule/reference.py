"""The reference: all stages in one process. A distributed run must match it bit for bit.

It runs the workers' own `Stage`, `Packet` and `run_tick`, without a transport: at tick k a stage packs what it sends
into packets, which its neighbours read as many ticks later as the edge takes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.models import build, part
from common.models.shapes import TensorSpec, activation_shapes
from common.rule.loss import Target
from common.rule.memory_format import with_memory_format
from common.rule.packet import Packet
from common.rule.pooling import pooled_shape
from common.rule.precision import casting
from common.rule.schedule import Schedule, schedule_of
from common.rule.skips import sources, targets
from common.rule.stage import Stage
from common.rule.stage_factory import make_stage
from common.rule.tick import Computes, run_tick
from common.rule.wire import MakePacket, Wire, decoder_of, encoder_of, wire_spec

_CPU = torch.device("cpu")


def build_stages(
    config: Config, classes: int, total_ticks: int, replica: int = 0, device: torch.device = _CPU
) -> list[Stage]:
    """All stages of a replica, built as the workers build them.

    Args:
        config: of a replica.
        total_ticks: ticks of the whole training.
        device: of all of them.
    """
    return stages_from(build(config, classes).to(device), config, classes, total_ticks, replica, device=device)


def stages_from(
    model: nn.Sequential,
    config: Config,
    classes: int,
    total_ticks: int,
    replica: int = 0,
    kind: Callable[..., Stage] = Stage,
    device: torch.device = _CPU,
) -> list[Stage]:
    """The same with a given model, on `device`. `kind` creates a stage."""
    config = with_memory_format(config, model, on_gpus=device.type == "cuda")
    assert config.split is not None
    parts = [part(model, config.split, index) for index in range(config.stages)]
    with casting(config, device):
        outputs = activation_shapes(parts, config.frame_shape)
    return [
        make_stage(part, i, config, outputs, classes, total_ticks, device, replica, kind)
        for i, part in enumerate(parts)
    ]


class Reference:
    """A whole pipeline, advanced one tick at a time.

    Attributes:
        stages: from input to top.
        computes: what runs each stage's tick: the stage itself, or a wrapper.
        tick_number: number of the next tick.
    """

    def __init__(
        self,
        stages: list[Stage],
        frame_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        packet: MakePacket | None = None,
    ) -> None:
        """Build a pipeline.

        Args:
            stages: from input to top.
            frame_shape: [slots, channels, height, width] of the input.
            dtype: of the input.
            packet: creates a packet of a shape and dtype; default: with the labels' form of the stages' task.
        """
        config = stages[0].config
        self.stages, self.schedule, self.tick_number = stages, schedule_of(config), 0
        self.computes: list[Computes] = list(stages)
        device = next((value.device for stage in stages for value in stage.blocks.parameters()), _CPU)
        with casting(config, device):
            outputs = activation_shapes([stage.blocks for stage in stages], frame_shape, dtype)
        packet = packet or partial(Packet, labels=stages[0].objective.task.form, channels_last=config.channels_last)
        self._ports = memory_ports(stages, outputs, config.network.wire, packet)

    def tick(self, frame: Packet, target: Target | None = None) -> Tensor | None:
        """Run one tick of every stage. Returns the top stage's loss, a 0-d tensor; None while it has no input.

        Args:
            frame: the frame batch of this tick; `frame.frame` must be the tick's number.
            target: target of this frame, for tasks without labels; stored until the top stage holds the frame.
        """
        if target is not None:
            self._ports[-1].targets[frame.frame] = Target(target.tensor.clone(), target.clips.copy())
        for stage in self.stages:
            self.tick_stage(stage, frame)
        self.tick_number += 1
        top = self.stages[-1]
        return top.loss if self.schedule.frame(top.index, self.tick_number - 1) is not None else None

    def tick_stage(self, stage: Stage, frame: Packet) -> None:
        """Run one stage's tick. The order of stages does not matter: none reads what another writes in this tick."""
        ports = self._ports[stage.index]
        ports.frame = frame
        run_tick(self.computes[stage.index], ports, self.tick_number)


class _Way:
    """The packets that pass an edge in one direction: what is sent at tick k is used `ticks` ticks later."""

    def __init__(self, spec: TensorSpec, ticks: int, wire: Wire, packet: MakePacket) -> None:
        self._packets, self._ticks = [packet(*wire_spec(wire, spec)) for _ in range(ticks + 1)], ticks
        self._encoder, self._decoder = encoder_of(wire, spec, packet), decoder_of(wire, spec, packet)

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Send a tensor, computed at a tick from `source`."""
        self._encoder.pack(self._sent_at(tick), tick, source, tensor)

    def used_at(self, tick: int) -> Packet:
        """The packet that is used at a tick. Call it once a tick."""
        return self._decoder.unpack(self._sent_at(tick - self._ticks))

    def _sent_at(self, tick: int) -> Packet:
        return self._packets[tick % len(self._packets)]


class _Edge(NamedTuple):
    """An edge between two stages: outputs pass up, gradients of inputs down."""

    up: _Way
    down: _Way


class MemoryPorts:
    """A stage's ports in one process, whose edges are shared by all stages.

    Attributes:
        frame: stage 0's input of this tick.
        targets: targets of frames that the top stage does not hold yet, by frame number.
    """

    def __init__(
        self,
        schedule: Schedule,
        stage: int,
        edges: dict[tuple[int, int], _Edge],
        skips: Sequence[tuple[int, int]],
    ) -> None:
        """`edges`: all of the pipeline, by their lower and upper stage; `skips`: those that are no neighbours."""
        self._schedule, self._stage = schedule, stage
        self._below, self._above = edges.get((stage - 1, stage)), edges.get((stage, stage + 1))
        self._from = [edges[s, stage] for s in sources(skips, stage)]
        self._to = [edges[stage, t] for t in targets(skips, stage)]
        self.frame: Packet | None = None
        self.targets: dict[int, Target] = {}

    def receive_input(self, tick: int) -> Packet | None:
        """The input x(k); None before the first."""
        if self._schedule.frame(self._stage, tick) is None:
            return None
        return self.frame if self._below is None else self._below.up.used_at(tick)

    def send_output(self, tick: int, held: Packet, y: Tensor, pooled: Sequence[Tensor]) -> None:
        """Send the output y(k), and pooled along skips."""
        assert self._above is not None
        self._above.up.send(tick, held, y)
        for skip, y_pooled in zip(self._to, pooled, strict=True):
            skip.up.send(tick, held, y_pooled)

    def receive_gradient(self, tick: int) -> Packet | None:
        """The gradient g(k); None before the first."""
        if self._schedule.gradient(self._stage, tick) is None:
            return None
        assert self._above is not None
        return self._above.down.used_at(tick)

    def target(self, tick: int, held: Packet) -> Target | None:
        """The target of the frame that the top stage holds; None for tasks with labels."""
        return self.targets.pop(held.frame, None)

    def send_gradient(self, tick: int, source: Packet, r: Tensor, skipped: Sequence[Tensor]) -> None:
        """Send the input's gradient r(k), and those of what skips brought."""
        assert self._below is not None
        self._below.down.send(tick, source, r)
        for skip, gradient in zip(self._from, skipped, strict=True):
            skip.down.send(tick, source, gradient)

    def receive_skips(self, tick: int) -> list[Packet]:
        """What the skips to this stage bring."""
        return [skip.up.used_at(tick) for skip in self._from]

    def receive_skip_gradients(self, tick: int) -> list[Packet]:
        """What the targets of this stage's skips send back."""
        return [skip.down.used_at(tick) for skip in self._to]


def memory_ports(
    stages: Sequence[Stage],
    outputs: Sequence[TensorSpec],
    wire: Wire,
    packet: MakePacket = Packet,
) -> list[MemoryPorts]:
    """The ports of all stages, connected. `outputs`: shapes and dtypes of the stages' outputs."""
    config, schedule = stages[0].config, schedule_of(stages[0].config)
    specs = {(stage, stage + 1): spec for stage, spec in enumerate(outputs[:-1])}
    specs |= {(s, t): (pooled_shape(outputs[t - 1][0], outputs[s][0]), outputs[s][1]) for s, t in config.skip_pairs}
    edges = {
        pair: _Edge(*(_Way(spec, schedule.ticks_between(*pair), wire, packet) for _ in range(2)))
        for pair, spec in specs.items()
    }
    return [MemoryPorts(schedule, stage, edges, config.skip_pairs) for stage in range(len(stages))]


def exact_gradients(stages: Sequence[Stage], frame: Packet, target: Target | None) -> list[dict[str, Tensor]]:
    """Backpropagate one frame batch through all stages. Returns each stage's gradients, by parameter name."""
    y = frame.tensor
    for stage in stages:
        stage.blocks.zero_grad(set_to_none=True)
        if stage.memories:
            stage.memories.begin(frame.clips, frame.frame, y.device)
        y = stage.run(y, frame.frame)
    stages[-1].objective(y, frame, target).backward()
    return [
        {name: value.grad.clone() for name, value in stage.blocks.named_parameters() if value.grad is not None}
        for stage in stages
    ]
