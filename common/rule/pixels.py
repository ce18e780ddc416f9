"""Conversion between pixels and the model's normalised floats."""

from collections.abc import Sequence

import torch
from torch import Tensor

Statistic = float | Sequence[float]  # of all channels, or of each


class Normaliser:
    """(pixels / 255 - mean) / std, with one mean and one deviation, or with those of each channel.

    Pixels of 16 bits are divided by 65535.
    """

    def __init__(self, mean: Statistic, std: Statistic, device: torch.device | None = None) -> None:
        """`device`: of the results; default: the CPU."""
        self._mean, self._std = _by_channel(mean, device), _by_channel(std, device)
        self._scale, self._shift = 1 / (255 * self._std), self._mean / self._std

    def __call__(self, out: Tensor, frames: Tensor) -> None:
        """Write normalised frames, uint8 or uint16, to `out`, float. Both are [rows, channels, height, width]."""
        out.copy_(frames)
        out.mul_(self._scale if frames.dtype == torch.uint8 else self._scale / 257).sub_(self._shift)

    def to_pixels(self, values: Tensor) -> Tensor:
        """Invert it, for values [..., channels, height, width]. Returns uint8, rounded and clamped to 0 … 255."""
        return ((values * self._std + self._mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _by_channel(value: Statistic, device: torch.device | None) -> float | Tensor:
    if isinstance(value, float | int):
        return float(value)
    return torch.tensor(value, device=device).view(-1, 1, 1)
