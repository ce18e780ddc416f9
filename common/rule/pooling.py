"""Outputs of stages at fewer positions: maps [rows, channels, height, width], tokens [rows, tokens, width], vectors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = Sequence[int]


def channels_of(shape: Shape) -> int:
    """Number of channels of maps, or width of tokens, or of vectors."""
    return shape[-1] if len(shape) == 3 else shape[1]


def pooled_shape(shape: Shape, output: Shape) -> torch.Size:
    """The shape of such an output, pooled to an input of shape `shape`."""
    return pool_to(shape, torch.empty(tuple(output), device="meta")).shape


def pool_to(shape: Shape, y: Tensor) -> Tensor:
    """An output, [rows, …], at the positions of an input of this shape: maps and tokens are pooled."""
    if len(shape) == 2:
        return y if y.ndim == 2 else y.flatten(2).mean(2) if y.ndim == 4 else y.mean(1)
    if len(shape) == 3:
        tokens = y.flatten(2) if y.ndim == 4 else y.mT if y.ndim == 3 else y.unsqueeze(2)
        return F.adaptive_avg_pool1d(tokens, shape[1]).mT
    maps = y if y.ndim == 4 else (y.mean(1) if y.ndim == 3 else y)[:, :, None, None]
    return maps if maps.shape[2:] == tuple(shape[2:]) else F.adaptive_avg_pool2d(maps, (shape[2], shape[3]))
