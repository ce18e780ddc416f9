"""Checks that a model can be split and trained for a task, by running each block forward and backward on zeros."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.errors import ConfigError
from common.models import named_blocks
from common.models.temporal import memories
from common.models.trial import about_time_axis
from common.models.user_code import is_reference, no_exit
from common.processes.user_errors import describe_error
from common.rule.in_place import forbid_in_place_on_input
from common.rule.label_form import LabelForm
from common.rule.tasks import without_loss
from common.rule.tasks.losses import Loss, own_loss

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _ignore(text: str) -> None:
    """Discard the message."""


def check_model(model: nn.Sequential, config: Config, classes: int, warn: Callable[[str], None] = _ignore) -> None:
    """Check a disposable model.

    Args:
        warn: called with a message about outputs that are not needed.

    Raises:
        ConfigError: a block fails, returns something other than one floating-point tensor, passes no gradient on, or
            shares parameters with another; or the output does not fit the task, or a memory the settings. The message
            names the block.
    """
    if any(name.partition(".")[0] == "skips" for name, _ in named_blocks(model)):
        raise ConfigError("a block cannot be named skips, as the weights of skips between stages are: rename it")
    _refuse_sharing(model)
    _refuse_memories(model, config)
    _refuse_channels_last_maps(model, config)
    x = torch.zeros(config.frame_shape)
    for number, (name, block) in enumerate(named_blocks(model)):
        x = _try(name, block, x, is_first=number == 0)
    task = without_loss(config, classes)
    if misfit := task.misfit(x.shape, config.frame_shape):
        raise ConfigError(misfit)
    if surplus := task.surplus(x.shape):
        warn(surplus)
    if is_reference(config.loss_name):
        _try_loss(own_loss(config.loss_name), task.form, config, x)


def _try(name: str, block: nn.Module, x: Tensor, is_first: bool) -> Tensor:
    forbid_in_place_on_input(block)
    leaf = x.detach().requires_grad_(not is_first)
    try:
        with no_exit(f"block {name}"):
            y = block(leaf)
            if isinstance(y, Tensor) and y.requires_grad:
                y.sum().backward()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"block {name} fails on an input {list(x.shape)}: {describe_error(error)}{about_time_axis(block)}"
        ) from error
    if not isinstance(y, Tensor) or y.dtype not in _FLOATS:
        raise ConfigError(f"block {name} returns {_kind(y)}: between blocks there must be one floating-point tensor")
    if y.dim() == 0 or y.shape[0] != x.shape[0]:
        raise ConfigError(
            f"block {name} turns {list(x.shape)} into {list(y.shape)}: it must keep the first dimension "
            f"(slots){about_time_axis(block)}"
        )
    if not is_first and leaf.grad is None:
        raise ConfigError(f"block {name} passes no gradient to its input, so the blocks before it cannot learn")
    return y


def _try_loss(own: Loss, form: LabelForm, config: Config, y: Tensor) -> None:
    """Raise ConfigError if the user's loss fails on the model's output and targets of zeros."""
    rows, y = len(y), y.detach().float().requires_grad_()
    label = form.empty(rows)
    label[:] = 0
    target = torch.from_numpy(label) if config.has_labels else torch.zeros(config.frame_shape)
    try:
        with no_exit(f"loss = {config.loss_name!r}"):
            loss = own(y, target)
            loss.backward()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"loss = {config.loss_name!r} fails on outputs {list(y.shape)} and targets {list(target.shape)} "
            f"({target.dtype}): {describe_error(error)}"
        ) from error
    if y.grad is None:
        raise ConfigError(f"loss = {config.loss_name!r} passes no gradient to the outputs: compute it with torch alone")


def _refuse_memories(model: nn.Sequential, config: Config) -> None:
    if config.compile and memories(model):
        raise ConfigError("compile: blocks with a memory cannot be compiled; set compile = false")


def _refuse_channels_last_maps(model: nn.Sequential, config: Config) -> None:
    """What a skip or an auxiliary loss pools are maps with their channels first, or tokens."""
    formats = {str(getattr(module, "output_fmt", "")) for module in model.modules()}  # as timm's models have it
    if any(name.endswith("NHWC") for name in formats) and (config.rule.auxiliary or config.skip_pairs):
        raise ConfigError(
            "skips and rule.auxiliary pool over height and width, and take the second dimension for the channels, but "
            "this model has them last: leave skips and rule.auxiliary out, or take a model with the channels first"
        )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _refuse_sharing(model: nn.Sequential) -> None:
    owners: dict[int, str] = {}
    for name, block in named_blocks(model):
        for parameter in block.parameters():
            if owners.setdefault(id(parameter), name) != name:
                raise ConfigError(
                    f"blocks {owners[id(parameter)]} and {name} share parameters: each stage trains its own, so they "
                    f"cannot be in different blocks"
                )
