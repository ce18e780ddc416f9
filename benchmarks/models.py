"""Models for timing: equal blocks, so that a split is balanced by counting them."""

from pathlib import Path

import torch
from torch import Tensor, nn


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
    """Bytes that autograd keeps for backward passes of this process: alive now, and at most."""

    alive = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # else an output would hold its own graph
        Kept.alive += tensor.nbytes
        Kept.most = max(Kept.most, Kept.alive)

    def __del__(self) -> None:
        Kept.alive -= self.tensor.nbytes


class Counted(nn.Module):
    """A block whose saved tensors are counted. At most so many bytes: the content of the file at `out`."""

    def __init__(self, block: nn.Module, out: str) -> None:
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
            Path(self._out).write_text(str(Kept.most))
        return y


def counted(out: str, blocks: int = 2, width: int = 16) -> nn.Sequential:
    """`convolutions`, of which the first block counts what is saved for its backward passes."""
    first, *others = convolutions(blocks, width)
    return nn.Sequential(Counted(first, out), *others)
