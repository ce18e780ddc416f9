"""The reference: all stages in one process. A distributed run must match it bit for bit.

It runs the workers' own `Stage`, `Packet` and `run_tick`, without a transport: at tick k a stage packs its output into
the packets of parity k % 2, which its neighbours read at tick k + 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.models import activation_shapes, build, part
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.skips import pooled_shape, sources, targets
from common.rule.stage import Stage, casting, make_stage
from common.rule.tick import run_tick

_CPU = torch.device("cpu")


def build_stages(config: Config, classes: int, planned: int) -> list[Stage]:
    """All stages of a run, on the CPU, built as the workers build them. `planned`: ticks of the whole training."""
    return stages_from(build(config, classes), config, classes, planned)


def stages_from(model: nn.Sequential, config: Config, classes: int, planned: int) -> list[Stage]:
    """The same with a given model."""
    assert config.split is not None
    parts = [part(model, config.split, index) for index in range(config.stages)]
    with casting(config, _CPU):
        outputs = activation_shapes(parts, config.frame_shape)
    return [make_stage(part, i, config, outputs, classes, planned, _CPU) for i, part in enumerate(parts)]


class Reference:
    """A whole pipeline, advanced one tick at a time.

    Attributes:
        tick_number: number of the next tick.
    """

    def __init__(
        self,
        stages: list[Stage],
        frame_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        packet: Callable[[Sequence[int], torch.dtype], Packet] = Packet,
    ) -> None:
        """Build a pipeline.

        Args:
            stages: from input to top.
            frame_shape: [slots, channels, height, width] of the input.
            dtype: of the input.
            packet: creates a packet of a shape and dtype.
        """
        self.stages, self.schedule, self.tick_number = stages, Schedule(len(stages)), 0
        with casting(stages[0].config, _CPU):
            outputs = activation_shapes([stage.blocks for stage in stages], frame_shape, dtype)
        self._ports = memory_ports(stages, frame_shape, dtype, outputs, packet)

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
        run_tick(stage, ports, self.tick_number)


class _Skip:
    """The packets of a skip by parity: up and down."""

    def __init__(self, packets: list[Packet]) -> None:
        self.up, self.down = packets[:2], packets[2:]


class MemoryPorts:
    """A stage's ports in one process: packets shared by all stages, indexed [parity][stage].

    Attributes:
        frame: stage 0's input of this tick.
        targets: targets of frames that the top stage does not hold yet, by frame number.
    """

    def __init__(
        self,
        schedule: Schedule,
        stage: int,
        up: list[list[Packet]],
        down: list[list[Packet]],
        skips: dict[tuple[int, int], _Skip],
    ) -> None:
        """`up[parity][i]` is stage i's output, `down[parity][i]` the gradient of its input."""
        self._schedule, self._stage, self._up, self._down = schedule, stage, up, down
        self._from = [skips[s, stage] for s in sources(list(skips), stage)]
        self._to = [skips[stage, t] for t in targets(list(skips), stage)]
        self.frame: Packet | None = None
        self.targets: dict[int, Target] = {}

    def receive_input(self, tick: int) -> Packet | None:
        """The input x(k); None before the first."""
        if self._schedule.frame(self._stage, tick) is None:
            return None
        return self.frame if self._stage == 0 else self._up[(tick - 1) % 2][self._stage - 1]

    def send_output(self, tick: int, held: Packet, y: Tensor, pooled: Sequence[Tensor]) -> None:
        """Send the output y(k), and pooled along skips."""
        self._up[tick % 2][self._stage].pack(tick, held, y)
        for skip, y_pooled in zip(self._to, pooled, strict=True):
            skip.up[tick % 2].pack(tick, held, y_pooled)

    def receive_gradient(self, tick: int) -> Packet | None:
        """The gradient g(k); None before the first."""
        if self._schedule.gradient(self._stage, tick) is None:
            return None
        return self._down[(tick - 1) % 2][self._stage + 1]

    def target(self, tick: int, held: Packet) -> Target | None:
        """The target of the frame that the top stage holds; None for tasks with labels."""
        return self.targets.pop(held.frame, None)

    def send_gradient(self, tick: int, source: Packet, r: Tensor, skipped: Sequence[Tensor]) -> None:
        """Send the input's gradient r(k), and those of what skips brought."""
        self._down[tick % 2][self._stage].pack(tick, source, r)
        for skip, gradient in zip(self._from, skipped, strict=True):
            skip.down[tick % 2].pack(tick, source, gradient)

    def receive_skips(self, tick: int) -> list[Packet]:
        """What the skips to this stage bring."""
        return [skip.up[(tick - 1) % 2] for skip in self._from]

    def receive_skip_gradients(self, tick: int) -> list[Packet]:
        """What the targets of this stage's skips send back."""
        return [skip.down[(tick - 1) % 2] for skip in self._to]


def memory_ports(
    stages: Sequence[Stage],
    frame_shape: Sequence[int],
    dtype: torch.dtype,
    outputs: Sequence[tuple[torch.Size, torch.dtype]],
    packet: Callable[[Sequence[int], torch.dtype], Packet] = Packet,
) -> list[MemoryPorts]:
    """The ports of all stages, connected. `outputs`: shapes and dtypes of the stages' outputs."""
    inputs = [(torch.Size(frame_shape), dtype), *outputs[:-1]]
    up = [[packet(*spec) for spec in outputs] for _ in range(2)]
    down = [[packet(*spec) for spec in inputs] for _ in range(2)]
    specs = {(s, t): (pooled_shape(inputs[t][0], outputs[s][0]), outputs[s][1]) for s, t in stages[0].config.skip_pairs}
    skips = {pair: _Skip([packet(*spec) for _ in range(4)]) for pair, spec in specs.items()}
    schedule = Schedule(len(stages))
    return [MemoryPorts(schedule, i, up, down, skips) for i in range(len(stages))]


def exact_gradients(stages: Sequence[Stage], frame: Packet, target: Target) -> list[dict[str, Tensor]]:
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
