"""A stage's optimiser: a class of torch.optim, with the settings' groups of parameters."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common.config.name_patterns import matches
from common.config.settings import Optimiser
from common.errors import ConfigError
from common.rule.learning_rate import rate_of_stage

_UNUSABLE = {"Optimizer", "LBFGS", "SparseAdam"}  # they need closures, or sparse gradients
_WITHOUT_MOMENTUM = {"Adam": {"betas": (0.0, 0.999)}, "AdamW": {"betas": (0.0, 0.999)}}
_CAPTURED = {"fused": True, "capturable": True}
CAPTURABLE = {"Adam": _CAPTURED, "AdamW": _CAPTURED, "SGD": {"fused": True}}  # with what arguments
_FUSED = {"Adam", "AdamW", "SGD", "Adagrad"}  # one kernel for all parameters, on the CPU too: less Python per tick


def build_optimiser(
    blocks: nn.Module, settings: Optimiser, mismatch: int, captured: bool = False
) -> torch.optim.Optimizer | None:
    """Build the optimiser of a stage; None if it has no parameters.

    `captured`: its step may be replayed as a graph, so what changes between steps, such as rates, is in tensors.

    Raises:
        ConfigError: the class is unknown or unusable, or its arguments are invalid.
    """
    kind = optimiser_class(settings.name)
    given = settings.args
    alternatives = {"fused", "foreach", "capturable", "differentiable"} & set(given)
    fused = {"fused": True} if settings.name in _FUSED and not alternatives else {}
    arguments = {**fused, **_WITHOUT_MOMENTUM.get(settings.name, {}), **given}
    if captured:
        arguments |= CAPTURABLE[settings.name]
    lr = rate_of_stage(settings, settings.lr, mismatch)
    groups = _groups(blocks, settings, _decay(kind, arguments))
    for group in groups:
        rate = lr * group["factor"]
        group["lr"] = torch.tensor(rate, device=group["params"][0].device) if captured else rate
    if not groups:
        return None
    try:
        built = kind(groups, lr=lr, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimiser.args do not fit torch.optim.{settings.name}: {error}") from error
    if captured:
        built._warned_capturable_if_run_uncaptured = True  # its first steps are not
    return built


def optimiser_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The class of torch.optim with this name. Raises ConfigError if there is none, or it is unusable."""
    kind = getattr(torch.optim, name, None)
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in _UNUSABLE:
        return kind
    known = sorted(name for name in dir(torch.optim) if name[0].isupper() and name not in _UNUSABLE)
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f"Did you mean {by_lower[near[0]]}? " if near else ""
    raise ConfigError(
        f"optimiser.name = {name!r} is not a usable class of torch.optim. {hint}Allowed: {', '.join(known)}"
    )


def _decay(kind: Callable[..., object], arguments: dict[str, Any]) -> float:
    """The weight decay that the optimiser would apply."""
    default = inspect.signature(kind).parameters.get("weight_decay")
    return arguments.get("weight_decay", default.default if default is not None else 0.0)


def _groups(blocks: nn.Module, settings: Optimiser, decay: float) -> list[dict[str, Any]]:
    """Parameter groups, each with the factor of its learning rate.

    Vectors (normalisations and biases) get no weight decay unless `decay_all`.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in blocks.named_parameters():
        if parameter.requires_grad:
            decays = settings.decay_all or not decay or parameter.ndim > 1
            groups.setdefault((decays, _own_factor(name, settings)), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: not group[0][0])  # those that decay first
    without = {"weight_decay": 0.0}
    return [{"params": own, "factor": factor, **({} if decays else without)} for (decays, factor), own in ordered]


def _own_factor(name: str, settings: Optimiser) -> float:
    """The factor of a parameter's learning rate (optimiser.rates)."""
    return next((factor for pattern, factor in settings.rates.items() if matches(name, pattern)), 1.0)


def load_state(optimiser: torch.optim.Optimizer, names: dict[nn.Parameter, str], state: dict[str, Tensor]) -> None:
    """Load an optimiser's part of a stage's state; parameters that it lacks keep theirs."""
    tree = optimiser.state_dict()
    rates = [group["lr"] for group in optimiser.param_groups]
    order = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(order):
        prefix = f"optimiser.{names[parameter]}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own:
            tree["state"][number] = {key: _as_stored(value, parameter) for key, value in own.items()}
    optimiser.load_state_dict(tree)  # moves every tensor to the device that this optimiser needs
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate  # not the copy that this makes


def _as_stored(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of a parameter's value, with the strides of the parameter, which fused optimisers take for granted."""
    if value.shape != parameter.shape:
        return value.clone()  # `load_state_dict` may keep it, and with it the whole file that is mapped
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
