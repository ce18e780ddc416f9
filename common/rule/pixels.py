"""Between the uint8 pixels of a frame and the floats that the model sees."""

import torch
from torch import Tensor


def normalise(out: Tensor, frames: Tensor, mean: float, std: float) -> None:
    """uint8 frames [rows, channels, height, width] → `out`, float: (frames / 255 - mean) / std, in place."""
    out.copy_(frames)
    out.mul_(1 / (255 * std)).sub_(mean / std)


def to_pixels(values: Tensor, mean: float, std: float) -> Tensor:
    """What `normalise` made → uint8 again, rounded and cut to 0 … 255."""
    return ((values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
