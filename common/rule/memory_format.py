"""The order of maps in memory (memory_format): row by row of each channel, or with the channels of a position together.

Convolutions on a GPU work with channels_last; with contiguous maps they convert both ways. Weights, activations and
what passes over the edges have the same order, so nothing is converted between two stages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.config.settings import Config

_MAP = 4  # dimensions: [rows, channels, height, width]
_TO_MEMORY, _FROM_MEMORY = (0, 2, 3, 1), (0, 3, 1, 2)


def with_memory_format(config: Config, model: nn.Module, on_gpus: bool) -> Config:
    """The settings with the format that a run takes, which is that of all its stages, in place of `auto`.

    Args:
        model: the whole model.
        on_gpus: whether all stages compute on GPUs.
    """
    if config.memory_format != "auto":
        return config
    apart = config.exact_gradients and config.stages > 1  # torch's own schedules exchange contiguous maps
    last = on_gpus and not apart and _gains(model)
    return config.model_copy(update={"memory_format": "channels_last" if last else "contiguous"})


def _gains(model: nn.Module) -> bool:
    """Whether it convolves maps, and does nothing that converts them each time: on a GPU GroupNorm does
    (aten/src/ATen/native/group_norm.cpp)."""
    kinds = [type(module) for module in model.modules()]
    convolves = any(issubclass(kind, nn.Conv2d | nn.ConvTranspose2d) for kind in kinds)
    return convolves and not any(issubclass(kind, nn.GroupNorm) for kind in kinds)


def arrange(blocks: nn.Module) -> None:
    """Bring the weights of convolutions into channels_last, in place."""
    for parameter in blocks.parameters():
        parameter.data = arranged(parameter.data, channels_last=True)


def arranged(x: Tensor, channels_last: bool) -> Tensor:
    """A tensor in the format of the run; itself if it is, or is not a map."""
    return x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == _MAP else x


def sizes_in_memory(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """The sizes of a tensor's dimensions in the order that they have in memory."""
    return tuple(shape[d] for d in _TO_MEMORY) if channels_last and len(shape) == _MAP else tuple(shape)


def as_in_memory(tensor: Tensor, channels_last: bool) -> Tensor:
    """A contiguous view of a tensor in the run's format."""
    return tensor.permute(_TO_MEMORY) if channels_last and tensor.ndim == _MAP else tensor


def from_memory(memory: Tensor, channels_last: bool) -> Tensor:
    """The view of memory, of `sizes_in_memory`, as [rows, channels, height, width]."""
    return memory.permute(_FROM_MEMORY) if channels_last and memory.ndim == _MAP else memory
