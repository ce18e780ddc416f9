"""Models for the benchmarks. Most have equal blocks, so that a split with equal numbers of blocks is balanced."""

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
    """Equal 3 × 3 convolutions at the frames' full size; the last block also pools and classifies."""
    layers: list[nn.Module] = [_block(3, width), *(_block(width, width) for _ in range(blocks - 1))]
    layers[-1] = nn.Sequential(layers[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(*layers)


def _block(incoming: int, outgoing: int) -> nn.Module:
    # a first block widens the frame's channels before its convolution, so that it costs as much as the others
    layer: nn.Module = nn.Conv2d(outgoing, outgoing, 3, padding=1)
    if incoming != outgoing:
        layer = nn.Sequential(nn.Conv2d(incoming, outgoing, 1), layer)
    return nn.Sequential(layer, nn.ReLU())


def tiny(blocks: int = 2) -> nn.Sequential:
    """Almost no compute, and activations of 4 KiB for 8 rows: leaves the overhead of a tick."""
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(192, 128)), *(nn.Linear(128, 128) for _ in range(blocks - 1))]
    return nn.Sequential(*layers)


class Kept:
    """A tensor that autograd keeps for a backward pass. The class counts the bytes of all of them in this process.

    A storage counts once, however many saved tensors share it.

    Attributes:
        alive: Bytes kept now.
        most: The most bytes kept so far.
        model: The number of the model whose tensors are counted.
    """

    alive = most = model = 0
    _holders: ClassVar[dict[int, int]] = {}

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # else a saved output would keep its own graph alive
        self._place, self._size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        self._model = Kept.model
        self._count(+1)

    def __del__(self) -> None:
        if self._model == Kept.model:
            self._count(-1)

    @classmethod
    def start(cls) -> None:
        """Count from zero, for another model."""
        cls.alive, cls.most, cls.model = 0, 0, cls.model + 1
        cls._holders.clear()

    def _count(self, change: int) -> None:
        before = Kept._holders.pop(self._place, 0)
        if before + change:
            Kept._holders[self._place] = before + change
        if 0 in (before, before + change):
            Kept.alive += change * self._size
            Kept.most = max(Kept.most, Kept.alive)


class Counted(nn.Module):
    """A block whose saved tensors are counted. Writes the most bytes kept so far to the file `out`."""

    def __init__(self, block: nn.Module, out: Path) -> None:
        super().__init__()
        self.block, self._out, self._written = block, out, 0

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        parameters = {parameter.data_ptr() for parameter in self.block.parameters()}

        def keep(tensor: Tensor) -> Kept | Tensor:  # parameters are not counted, as they exist anyway
            return tensor if tensor.data_ptr() in parameters else Kept(tensor)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: getattr(kept, "tensor", kept)):
            y: Tensor = self.block(x)
        if Kept.most > self._written:
            self._written = Kept.most
            self._out.write_text(str(Kept.most))
        return y


def counted(out: str, blocks: int = 2, width: int = 16) -> nn.Sequential:
    """`convolutions`, with the saved tensors of the first block counted."""
    Kept.start()
    first, *others = convolutions(blocks, width)
    return nn.Sequential(Counted(first, Path(out)), *others)


def counting(model: str, out: str, layers: bool, classes: int, channels: int, size: int) -> nn.Sequential:
    """A model of the zoo with the saved tensors of every block, or layer, counted, in the file `out`/RANK.

    Each build counts from zero, also in a process that had such a model before.
    """
    Kept.start()
    blocks = _of_zoo(model, classes, channels, size)
    if layers:
        blocks = layered(blocks, [name for name, _ in named_blocks(blocks)])
    return nn.Sequential(*(Counted(block, Path(out) / os.environ["RANK"]) for block in blocks))


def _of_zoo(model: str, classes: int, channels: int, size: int) -> nn.Sequential:
    arguments = {"classes": classes, "channels": channels, "size": size}
    accepted = inspect.signature(ZOO[model]).parameters
    return ZOO[model](**{name: value for name, value in arguments.items() if name in accepted})


class _Sleep(torch.autograd.Function):
    """The identity; sleeps in both directions."""

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
    """`tiny` with blocks that sleep, half of the time in the forward and half in the backward pass."""
    return nn.Sequential(*(_Sleeping(block, milliseconds / 1e3) for block in tiny(blocks)))


def channels_last(model: str, classes: int, channels: int, size: int) -> nn.Sequential:
    """A model of the zoo with weights in torch.channels_last, so that convolutions work on NHWC memory."""
    blocks = _of_zoo(model, classes, channels, size)
    return blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
