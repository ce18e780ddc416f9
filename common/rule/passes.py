"""The passes of a stage over memory that stays: recorded once, then replayed with other contents.

    forward    y = H(x; θ)                                  x is copied in, y is where it was
    backward   Δθ = (∂H/∂θ)ᵀ g    r = (∂H/∂x)ᵀ g              g is copied in; Δθ become the parameters' .grad
    update     θ ← optimiser(θ, Δθ)                          the rate is in a tensor

They are three recordings, as y leaves while the backward pass runs, and reports read Δθ before the update.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.rule.graphs import Recorder
from common.rule.updater import Updater


class Passes:
    """The recorded passes of one stage."""

    def __init__(
        self,
        compute: Callable[[Tensor], Tensor],
        updater: Updater,
        recorder: Recorder,
        x: Tensor,
        g: Tensor,
        is_first: bool,
    ) -> None:
        """Record them.

        Args:
            compute: the blocks, from x to y.
            x, g: an input and a gradient of the output, of which shape, dtype and strides are used.
            is_first: no gradient of the input is needed.
        """
        self._updater, self._recorder = updater, recorder
        recorder.renew()
        self._x = torch.zeros_like(x).requires_grad_(not is_first)
        self._g = torch.zeros_like(g)
        self._x_memory = self._x.detach()
        self._r: Tensor | None = None
        self._gradients: list[Tensor | None] = []
        graph: list[Tensor] = []  # autograd's, between the two recordings
        self._forward = recorder.record(lambda: graph.append(compute(self._x)))
        y = graph[0]
        self.y = y.detach()
        self._backward = recorder.record(lambda: self._differentiate(y))
        self._update = recorder.record(updater.apply)

    def _differentiate(self, y: Tensor) -> None:
        """By autograd.grad, as the nodes that add to .grad belong to another stream."""
        parameters = self._updater.parameters
        inputs = [self._x, *parameters] if self._x.requires_grad else parameters
        found = torch.autograd.grad(y, inputs, self._g, allow_unused=True)
        if self._x.requires_grad:
            self._r, *found = found  # type: ignore[assignment]
        taken = {tensor.data_ptr() for tensor in (self._g, self._r) if tensor is not None}
        self._gradients = [
            None if own is None else _as_gradient(own, parameter, taken)
            for own, parameter in zip(found, parameters, strict=True)
        ]
        self.attach()

    def attach(self) -> None:
        """Make the gradients that the backward pass writes the parameters' own."""
        for parameter, gradient in zip(self._updater.parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def forward(self, x: Tensor, seed: int) -> Tensor:
        """y, valid until the next call. Random numbers depend on the seed."""
        self._x_memory.copy_(x)
        self._recorder.seed(seed)
        self._forward()
        return self.y

    def backward(self, g: Tensor) -> Tensor | None:
        """r, valid until the next call; None in stage 0. Call `forward` first."""
        self._g.copy_(g)
        self._backward()
        return self._r

    def update(self) -> None:
        """Update the parameters. Call `backward` first."""
        self._update()


def _as_gradient(found: Tensor, parameter: Tensor, taken: set[int]) -> Tensor:
    """What .grad may be: with the parameter's strides, and not in memory that is `taken`, as it is scaled in place.

    autograd.grad may return one tensor for two inputs, or the gradient of the output itself.
    """
    if found.stride() != parameter.stride():
        found = torch.empty_like(parameter).copy_(found)
    elif found.data_ptr() in taken:
        found = found.clone()
    taken.add(found.data_ptr())
    return found
