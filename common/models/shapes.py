"""Shapes and dtypes of what passes from one part of a model to the next."""

from collections.abc import Sequence

import torch
from torch import nn

TensorSpec = tuple[torch.Size, torch.dtype]


def activation_shapes(
    parts: Sequence[nn.Module],
    frame_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    without_computing: bool = False,
) -> list[TensorSpec]:
    """Shape and dtype of each part's output for a frame batch, found by running the parts once on zeros.

    Args:
        without_computing: only propagate shapes, by torch's fake tensors, which saves the time and the memory of the
            pass but takes a second to import. Parts that need values, not only shapes, are run nevertheless.
    """
    training = [part.training for part in parts]
    for part in parts:
        part.eval()  # keeps running statistics unchanged
    try:
        return _fake_shapes(parts, frame_shape, dtype) if without_computing else _shapes(parts, frame_shape, dtype)
    finally:
        for part, mode in zip(parts, training, strict=True):
            part.train(mode)


def _shapes(parts: Sequence[nn.Module], frame_shape: Sequence[int], dtype: torch.dtype) -> list[TensorSpec]:
    result = []
    with torch.no_grad():
        x = torch.zeros(tuple(frame_shape), dtype=dtype, device=_device_of(parts))
        for part in parts:
            x = part(x)
            result.append((x.shape, x.dtype))
    return result


def _fake_shapes(parts: Sequence[nn.Module], frame_shape: Sequence[int], dtype: torch.dtype) -> list[TensorSpec]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _shapes(parts, frame_shape, dtype)
    except Exception:  # what user code may raise that looks at values
        return _shapes(parts, frame_shape, dtype)


def _device_of(parts: Sequence[nn.Module]) -> torch.device:
    return next((parameter.device for part in parts for parameter in part.parameters()), torch.device("cpu"))
