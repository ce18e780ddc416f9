"""BatchNorm over the rows of all replicas of a stage (the setting `norm = "sync"`).

Each replica gives the mean and the sum of squares of its own rows, and in the backward pass the sums of two gradients;
all add them in the order of the replicas, so they get the same bits. torch's own SyncBatchNorm needs CUDA, and does not
fix the order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import ConfigError

Gather = Callable[[Tensor], Sequence[Tensor]]  # from one replica's tensor to those of all, in the order of the replicas
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncedNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are those of all replicas, which have as many rows each.

    Attributes:
        gather: of the replicas' statistics; until it is set, the statistics are those of the own rows.
    """

    gather: Gather | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, [rows, channels, …] → the same shape."""
        if not self.training or self.gather is None:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            y, mean, variance, count = _Normalise.apply(x.float(), self.weight, self.bias, self.eps, self.gather)
        self._track(mean, variance * (count / max(count - 1, 1)))
        return y.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.mul_(1 - share).add_(new, alpha=share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any, as the class that it replaces was chosen for it."""


class _Normalise(torch.autograd.Function):
    """(x - mean) / √(variance + ε) · weight + bias, over all replicas."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, gather: Gather
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        over = [axis for axis in range(x.dim()) if axis != 1]
        own = x.mean(over)
        squares = (x - _wide(own, x)).square_().sum(over)
        parts = gather(torch.stack([own, squares]))
        rows = x.numel() // x.shape[1]
        mean = _sum([part[0] for part in parts]) / len(parts)
        # of deviations from the own mean, and of the own mean from that of all (Chan, Golub and LeVeque, 1983)
        variance = _sum([part[1] + rows * (part[0] - mean).square() for part in parts]) / (rows * len(parts))
        scale = torch.rsqrt(variance + eps)
        normal = (x - _wide(mean, x)) * _wide(scale, x)
        ctx.save_for_backward(normal, scale, weight)
        ctx.gather, ctx.count = gather, rows * len(parts)
        ctx.mark_non_differentiable(mean, variance)
        y = normal if weight is None else normal * _wide(weight, x)
        return y if bias is None else y + _wide(bias, x), mean, variance, ctx.count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        normal, scale, weight = ctx.saved_tensors
        gradient = gradients[0]
        over = [axis for axis in range(normal.dim()) if axis != 1]
        of_bias, of_weight = gradient.sum(over), (gradient * normal).sum(over)
        total = _sum(ctx.gather(torch.stack([of_bias, of_weight]))) / ctx.count
        rest = gradient - _wide(total[0], normal) - normal * _wide(total[1], normal)
        of_x = rest * _wide(scale if weight is None else scale * weight, normal)
        needed = [
            found if need else None
            for found, need in zip((of_x, of_weight, of_bias), ctx.needs_input_grad, strict=False)
        ]
        return *needed, None, None


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """In their order."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _wide(channels: Tensor, like: Tensor) -> Tensor:
    """[channels] → [1, channels, 1, …]."""
    return channels.view(1, -1, *[1] * (like.dim() - 2))


def sync_norms(model: nn.Module) -> None:
    """Make every BatchNorm a SyncedNorm, with the same parameters and buffers.

    Raises:
        ConfigError: there is none, or it is not one of torch's.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found:
        raise ConfigError('norm = "sync" is for models with a BatchNorm, and this one has none: leave it out')
    for name, module in found:
        if type(module) not in _KINDS:
            raise ConfigError(
                f'norm = "sync" is for torch\'s own BatchNorm, and {name} is a {type(module).__name__}: leave it out, '
                f"or take a model without it"
            )
        module.__class__ = SyncedNorm


def set_gather(blocks: nn.Module, gather: Gather) -> bool:
    """Let the synced norms of a stage gather the statistics of its other replicas. Returns whether there are any."""
    synced = [module for module in blocks.modules() if isinstance(module, SyncedNorm)]
    for module in synced:
        module.gather = gather
    return bool(synced)
