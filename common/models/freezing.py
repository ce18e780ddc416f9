"""Parts of a model that are not trained (the setting `freeze`)."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import ConfigError


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter whose name, or whose module's, matches one of the patterns (`stem`, `layer1.*`, `*.bias`).

    A BatchNorm that is frozen whole normalises with its running statistics and keeps them, in training too.

    Raises:
        ConfigError: a pattern matches nothing, or no parameter is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        names = [name for name in named if any(fnmatchcase(part, pattern) for part in _with_parents(name))]
        if not names:
            parts = dict.fromkeys(name.partition(".")[0] for name in named)
            raise ConfigError(f"freeze = {pattern!r} matches no parameter. The model's parts: {', '.join(parts)}")
        for name in names:
            named[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in named.values()):
        raise ConfigError(f"freeze = {list(patterns)} leaves no parameter to train: leave a pattern out")
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not any(p.requires_grad for p in module.parameters()):
            module.register_forward_pre_hook(_use_running_statistics)


def _with_parents(name: str) -> Iterator[str]:
    """a.b.c, then a.b, then a."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _use_running_statistics(module: nn.Module, inputs: Any) -> None:
    module.eval()
