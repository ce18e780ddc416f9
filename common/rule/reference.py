"""All stages in one process, one tick of delay between them: what the distributed run must equal bit for bit.

It runs the workers' own `Stage` and `Packet`; only the transport is missing: what a stage packs at tick k into the
packets of parity k % 2 its neighbours read at tick k + 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.models import activation_shapes
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.schedule import Schedule
from common.rule.stage import Stage, casting


class Reference:
    """A whole pipeline, advanced a tick at a time."""

    def __init__(
        self,
        stages: list[Stage],
        frame_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        packet: Callable[[Sequence[int], torch.dtype], Packet] = Packet,
    ) -> None:
        """`stages` from input to top; `frame_shape` is [slots, channels, height, width] of the input.

        `packet` makes one of a shape and dtype.
        """
        self.stages = stages
        self.schedule = Schedule(len(stages))
        self.tick_number = 0
        with casting(stages[0].config, torch.device("cpu")):
            shapes = activation_shapes([stage.blocks for stage in stages], frame_shape, dtype)
        # [parity][stage]: activations go up into stage i + 1, gradients go down into stage i - 1
        self._up = [[packet(shape, kind) for shape, kind in shapes] for _ in range(2)]
        below = [(torch.Size(frame_shape), dtype), *shapes[:-1]]
        self._down = [[packet(shape, kind) for shape, kind in below] for _ in range(2)]
        self._targets: dict[int, Target] = {}

    def tick(self, frame: Packet, target: Target | None = None) -> Tensor | None:
        """One tick of every stage. Returns the top stage's loss, None while it has no input.

        Args:
            frame: the frame batch of this tick; `frame.frame` must be the tick's number.
            target: for tasks without labels, what the loss on this very frame compares with; kept until the top
                holds it.
        """
        if target is not None:
            self._targets[frame.frame] = Target(target.tensor.clone(), target.clips.copy())
        for stage in self.stages:
            self.tick_stage(stage, frame)
        self.tick_number += 1
        top = self.stages[-1]
        return top.loss if self.schedule.frame(top.index, self.tick_number - 1) is not None else None

    def tick_stage(self, stage: Stage, frame: Packet) -> None:
        """One stage's part of this tick. The stages' order does not matter: none reads what another writes now."""
        tick, i = self.tick_number, stage.index
        now, before = tick % 2, (tick - 1) % 2
        if self.schedule.frame(i, tick) is None:
            return
        x = frame if stage.is_first else self._up[before][i - 1]
        y = stage.forward(x)
        if stage.is_top:
            source = x
            r = stage.backward_from_loss(x, self._targets.pop(x.frame, None))
        else:
            self._up[now][i].pack(tick, x, y)
            if self.schedule.gradient(i, tick) is None:
                return
            source = self._down[before][i + 1]
            r = stage.backward(x, source)
        if r is not None:
            self._down[now][i].pack(tick, source, r)
        stage.update()


def exact_gradients(stages: Sequence[Stage], frame: Packet, target: Target) -> list[dict[str, Tensor]]:
    """Backpropagation's gradient of one frame batch through all stages: of each stage, by the parameters' names."""
    y = frame.tensor
    for stage in stages:
        stage.blocks.zero_grad(set_to_none=True)
        y = stage.run(y, frame.frame)
    stages[-1].objective(y, frame, target).backward()
    return [
        {name: value.grad.clone() for name, value in stage.blocks.named_parameters() if value.grad is not None}
        for stage in stages
    ]
