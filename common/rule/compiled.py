"""A stage's blocks, compiled (compile).

With "reduce-overhead" torch replays CUDA graphs whose outputs are overwritten by the next run: of the forward pass the
output, which is packed in the same tick; of the backward pass the gradients. Autograd would keep those as the
parameters' .grad, so that a later tick overwrites what a stage gathers (rule.every; pytorch/pytorch, issue 96693). So
gradients are added to memory that stays (Updater.keep_gradients), and every forward pass begins a step.
"""

from typing import Any, Literal

import torch
from torch import nn


def compiled(blocks: nn.Module, how: Literal[True, "reduce-overhead"]) -> Any:
    """The blocks, to be called like them. They are compiled at their first call."""
    return torch.compile(blocks, dynamic=False, mode=None if how is True else how)


def nothing() -> None:
    """Begin a step of a stage that torch replays no graphs for."""
