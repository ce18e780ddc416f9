"""Conversion between uint8 pixels and the model's normalised floats."""

import torch
from torch import Tensor


def normalise(out: Tensor, frames: Tensor, mean: float, std: float) -> None:
    """Write (frames / 255 - mean) / std to `out`, float. Both are [rows, channels, height, width]; frames is uint8."""
    out.copy_(frames)
    out.mul_(1 / (255 * std)).sub_(mean / std)


def to_pixels(values: Tensor, mean: float, std: float) -> Tensor:
    """Invert `normalise`. Returns uint8, rounded and clamped to 0 … 255."""
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
