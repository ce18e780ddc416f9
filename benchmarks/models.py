"""Models for timing: equal blocks, so that a split is balanced by counting them."""

import inspect
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.models import ZOO, named_blocks
from common.models.chain import layered


def convolutions(blocks: int = 8, width: int = 48) -> nn.Sequential:
    """Equal 3 × 3 convolutions at the frames' full size; the last pools and classifies."""
    layers: list[nn.Module] = [_block(3, width), *(_block(width, width) for _ in range(blocks - 1))]
    layers[-1] = nn.Sequential(layers[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(*layers)


def _block(incoming: int, outgoing: int) -> nn.Module:
    # the first layer repeats the frame's channels, so that it costs what the others cost
    layer: nn.Module = nn.Conv2d(outgoing, outgoing, 3, padding=1)
    if incoming != outgoing:
        layer = nn.Sequential(nn.Conv2d(incoming, outgoing, 1), layer)
    return nn.Sequential(layer, nn.ReLU())


def tiny(blocks: int = 2) -> nn.Sequential:
    """Next to no compute, activations of 4 KiB for 8 rows: what is left is the cost of a tick."""
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(192, 128)), *(nn.Linear(128, 128) for _ in range(blocks - 1))]
    return nn.Sequential(*layers)


class Kept:
    """What autograd keeps for backward passes of this process, in bytes: alive now, and at most.

    A storage counts once, however many saved tensors share it.
    """

    alive = most = 0
    _holders: ClassVar[dict[int, int]] = {}

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # else an output would hold its own graph
        self._place, self._size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        self._count(+1)

    def __del__(self) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        before = Kept._holders.pop(self._place, 0)
        if before + change:
            Kept._holders[self._place] = before + change
        if 0 in (before, before + change):
            Kept.alive += change * self._size
            Kept.most = max(Kept.most, Kept.alive)


class Counted(nn.Module):
    """A block whose saved tensors are counted. At most so many bytes: the content of the file at `out`."""

    def __init__(self, block: nn.Module, out: Path) -> None:
        super().__init__()
        self.block, self._out, self._written = block, out, 0

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        parameters = {parameter.data_ptr() for parameter in self.block.parameters()}

        def keep(tensor: Tensor) -> Kept | Tensor:  # the weights are there anyhow
            return tensor if tensor.data_ptr() in parameters else Kept(tensor)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: getattr(kept, "tensor", kept)):
            y: Tensor = self.block(x)
        if Kept.most > self._written:
            self._written = Kept.most
            self._out.write_text(str(Kept.most))
        return y


def counted(out: str, blocks: int = 2, width: int = 16) -> nn.Sequential:
    """`convolutions`, of which the first block counts what is saved for its backward passes."""
    first, *others = convolutions(blocks, width)
    return nn.Sequential(Counted(first, Path(out)), *others)


def counting(model: str, out: str, layers: bool, classes: int, channels: int, size: int) -> nn.Sequential:
    """A model of the zoo, of which every block, or layer, counts; the file in the folder `out` is named after the rank.

    Built anew, in a process that ran another one before, it counts anew: this file is then loaded again.
    """
    blocks = _of_zoo(model, classes, channels, size)
    if layers:
        blocks = layered(blocks, [name for name, _ in named_blocks(blocks)])
    return nn.Sequential(*(Counted(block, Path(out) / os.environ["RANK"]) for block in blocks))


def _of_zoo(model: str, classes: int, channels: int, size: int) -> nn.Sequential:
    given = {"classes": classes, "channels": channels, "size": size}
    accepted = inspect.signature(ZOO[model]).parameters
    return ZOO[model](**{name: value for name, value in given.items() if name in accepted})


class _Sleep(torch.autograd.Function):
    """The identity, that takes its time both ways."""

    @staticmethod
    def forward(context: Any, x: Tensor, seconds: float) -> Tensor:
        context.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        time.sleep(context.seconds)
        return gradient, None


class _Sleeping(nn.Module):
    def __init__(self, block: nn.Module, seconds: float) -> None:
        super().__init__()
        self.block, self._seconds = block, seconds

    def forward(self, x: Tensor) -> Tensor:
        return _Sleep.apply(self.block(x), self._seconds / 2)


def sleeping(blocks: int, milliseconds: float) -> nn.Sequential:
    """`tiny`, of which each block's forward and backward pass sleep half of the time each."""
    return nn.Sequential(*(_Sleeping(block, milliseconds / 1e3) for block in tiny(blocks)))


def channels_last(model: str, classes: int, channels: int, size: int) -> nn.Sequential:
    """A model of the zoo whose convolutions work on [rows, height, width, channels]."""
    blocks = _of_zoo(model, classes, channels, size)
    return blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
