"""The precision that a stage computes in."""

import contextlib

import torch

from common.config.settings import Config


def casting(config: Config, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context with bfloat16 autocast, if the precision asks for it."""
    enabled = config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if enabled else contextlib.nullcontext()
