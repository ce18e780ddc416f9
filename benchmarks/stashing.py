"""The nearest other method, for the reference: asynchronous 1F1B with stashed weights (PipeDream, SOSP 2019).

Each stage keeps the input of every frame whose gradient is still to come, and the weights that it had then. When the
gradient comes, it computes that frame once more with those weights: its gradient is backpropagation's, at weights that
are as many updates old as the frame is ticks. A stage i of D keeps 2(D-1-i) + 1 inputs and sets of weights.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from common.rule.packet import Packet
from common.rule.stage import Stage


@dataclass(frozen=True)
class _Kept:
    """A frame's input, and the weights with which its activation was computed."""

    x: Packet
    weights: list[Tensor]

    @property
    def bytes(self) -> int:
        return self.x.tensor.nbytes + sum(weight.nbytes for weight in self.weights)


class Stash:
    """What a stage keeps, and its computation with it.

    Attributes:
        most: bytes kept at most, of inputs and weights.
    """

    def __init__(self, stage: Stage) -> None:
        """Change the stage in place. It must have no memory, skips or auxiliary loss."""
        self.most = 0
        self._stage, self._forward, self._backward = stage, stage.forward, stage.backward
        self._parameters = [value for value in stage.blocks.parameters() if value.requires_grad]
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # by frame
        if not stage.is_top:  # the top stage's gradient is that of the frame it holds
            stage.forward = self.forward  # type: ignore[method-assign]
            stage.backward = self.backward  # type: ignore[method-assign]

    def forward(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """Compute y, and keep what its gradient will need."""
        self._kept[x.frame] = _Kept(_copy(x), [value.detach().clone() for value in self._parameters])
        self.most = max(self.most, sum(kept.bytes for kept in self._kept.values()))
        return self._forward(x)

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """The gradients of the frame whose gradient has come, at the weights that it was computed with."""
        kept = self._kept.pop(gradient.frame)
        now = [value.data for value in self._parameters]
        self._use(kept.weights)
        self._forward(kept.x)
        r = self._backward(kept.x, gradient)
        self._use(now)
        return r

    def _use(self, weights: list[Tensor]) -> None:
        for value, weight in zip(self._parameters, weights, strict=True):
            value.data = weight


def _copy(x: Packet) -> Packet:
    copy = Packet(x.tensor.shape, x.tensor.dtype)
    copy.pack(x.tick, x, x.tensor)
    return copy
