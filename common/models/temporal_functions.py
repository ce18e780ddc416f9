"""What blocks with a memory compute, each with its backward pass in one piece: fewer passes over activations.

A tick with a memory differs from one without by passes over memory alone, so their number is what it costs. Gradients
are those of torch's own operators, which run instead where no gradient is wanted, as in an exported program. None flows
to an earlier input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def replace_channels(x: Tensor, earlier: Tensor) -> Tensor:
    """x, [rows, channels, …], with the first channels from `earlier`, [rows, fewer channels, …]."""
    return _Replace.apply(x, earlier) if x.requires_grad else _replaced(x, earlier)


def _replaced(x: Tensor, earlier: Tensor) -> Tensor:
    return torch.cat([earlier, x[:, earlier.shape[1] :]], 1)


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, earlier: Tensor) -> Tensor:
        ctx.channels = earlier.shape[1]  # type: ignore[attr-defined]
        return _replaced(x, earlier)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        r, replaced = torch.empty_like(g), ctx.channels
        r[:, :replaced] = 0
        r[:, replaced:] = g[:, replaced:]
        return r, None


def overwrite_channels(x: Tensor, earlier: Tensor) -> Tensor:
    """The same in place. The gradient that arrives is overwritten, too: it is zero for these channels.

    x may be the output of an elementwise activation that keeps it for its backward pass, as ReLU does: where the
    gradient is zero, it does not matter what was kept. Nothing else may use x or its gradient.
    """
    x.data[:, : earlier.shape[1]] = earlier  # .data: autograd would refuse a change of what it keeps
    return _Overwritten.apply(x, earlier.shape[1]) if x.requires_grad else x


class _Overwritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, channels: int) -> Tensor:
        ctx.channels = channels  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        g[:, : ctx.channels] = 0
        return g, None


def weighted_sum(x: Tensor, past: Sequence[Tensor], weight: Tensor) -> Tensor:
    """x · w₀ + past₁ · w₁ + …, channel by channel.

    Args:
        x, past: [rows, channels, …], contiguous but for the rows' stride.
        weight: [1 + number of past inputs, channels].
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _WeightedSum.apply(x, weight, *past)
    return _summed(x, past, weight)


def _summed(x: Tensor, past: Sequence[Tensor], weight: Tensor) -> Tensor:
    first, *others = weight.view(*weight.shape, *[1] * (x.ndim - 2))
    y = x * first
    for earlier, own in zip(past, others, strict=True):
        y.addcmul_(earlier, own)
    return y


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, *past: Tensor) -> Tensor:
        ctx.save_for_backward(weight, x, *past)
        return _summed(x, past, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        r = g * weight[0].view(-1, *[1] * (g.ndim - 2)) if ctx.needs_input_grad[0] else None
        return r, _products(g, inputs) if ctx.needs_input_grad[1] else None, *[None] * (len(inputs) - 1)


def _products(g: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Σ g · input, over all but the channels, for each input: [inputs, channels]."""
    dims, product, sums = [d for d in range(g.ndim) if d != 1], torch.empty_like(g), []
    for each in inputs:
        sums.append(torch.mul(g, each, out=product).sum(dims))
    return torch.stack(sums)
