"""Parts of a model that are not trained (the settings `freeze` and `norm`)."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.name_patterns import matches, matching
from common.errors import ConfigError


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter whose name, or whose module's, matches one of the patterns (`stem`, `layer1.*`, `*.bias`).

    A BatchNorm that is frozen whole normalises with its running statistics and keeps them, in training too.

    Raises:
        ConfigError: a pattern matches nothing, or no parameter is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        for name in matching(named, pattern, "freeze"):
            named[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in named.values()):
        raise ConfigError(f"freeze = {list(patterns)} leaves no parameter to train: leave a pattern out")
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and _is_frozen(path, module, patterns):
            module.register_forward_pre_hook(_use_running_statistics)


def _is_frozen(path: str, norm: nn.Module, patterns: Sequence[str]) -> bool:
    parameters = list(norm.parameters())
    if not parameters:  # it has running statistics alone
        return any(matches(path, pattern) for pattern in patterns)
    return not any(parameter.requires_grad for parameter in parameters)


def freeze_norms(model: nn.Module) -> None:
    """Keep the running statistics and the affine parameters of every BatchNorm, and normalise with them.

    Raises:
        ConfigError: there is none.
    """
    found = _batch_norms(model)
    if not found:
        raise ConfigError('norm = "frozen" is for models with a BatchNorm, and this one has none: leave it out')
    for module in found:
        module.requires_grad_(False)
        module.register_forward_pre_hook(_use_running_statistics)


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _use_running_statistics(module: nn.Module, inputs: Any) -> None:
    module.training = False  # its own alone: one with an activation inside, as timm's, may draw random numbers there
