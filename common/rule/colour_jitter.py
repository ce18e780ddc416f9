"""Colour jitter of a batch on a stage's device, each row with factors of its own.

It gives the results of torchvision.transforms.v2.functional, with which decoders jitter colours on the CPU, except that
a pixel may differ by a level or two; and the same bits on every device: one operation at a time, each correctly rounded
by IEEE 754, and sums of whole numbers. torchvision takes one factor for a whole batch; by rows it would be a thousand
kernels a tick.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.rule.host_values import HostValues

_ROUNDING = 255.999 / 255  # as torchvision rounds: the largest value becomes 255, and any below 1 / 255.999 becomes 0


class ColourJitter:
    """Jitters the colours of batches on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._values = device, HostValues()
        self._channels = torch.tensor([5.0, 3.0, 1.0], device=device).view(3, 1, 1)

    def __call__(self, frames: Tensor, colours: NDArray[np.float64]) -> Tensor:
        """Jitter a batch.

        Args:
            frames: uint8 [rows, channels, height, width], on the device.
            colours: [rows, 4] on the host: the factors of brightness, contrast and saturation, and the shift of the
                hue as a fraction of the colour circle; 1, 1, 1, 0 changes nothing.

        Returns:
            uint8, of the same shape.
        """
        bright, contrast, saturation, hue = colours.T
        factors = np.stack([bright, contrast, 1 - contrast, saturation, 1 - saturation, 6 * hue]).astype(np.float32)
        by_row = self._values.on(self._device, factors).view(6, -1, 1, 1, 1)
        x = frames.float()
        if _any(bright != 1):
            x = _levels(x * by_row[0])
        if _any(contrast != 1):
            grey = _grey(x)
            mean = grey.sum((1, 2, 3), dtype=torch.float64, keepdim=True) / grey[0].numel()
            x = _levels(x * by_row[1] + mean.float() * by_row[2])
        if x.shape[1] == 3 and _any(saturation != 1):
            x = _levels(x * by_row[3] + _grey(x) * by_row[4])
        if x.shape[1] == 3 and _any(hue != 0):
            x = _levels(self._turned(x, by_row[5]) * _ROUNDING)
        return x.to(torch.uint8)

    def _turned(self, x: Tensor, sixths: Tensor) -> Tensor:
        """Colours turned by so many sixths of the circle, by way of hue, saturation and value."""
        red, green, blue = x.split(1, dim=1)
        value = red.maximum(green).maximum(blue)
        span = value - red.minimum(green).minimum(blue)
        unit = torch.where(span == 0, 1.0, span)
        other = torch.where(value == green, (blue - red) / unit + 2, (red - green) / unit + 4)
        hue = torch.where(value == red, (green - blue) / unit, other) + sixths
        place = (hue + self._channels) % 6
        return value - span * place.minimum(4 - place).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """The brightness of each pixel in whole levels, [rows, 1, height, width]."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_()


def _levels(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).floor_()


def _any(where: NDArray[Any]) -> bool:
    return bool(where.any())
