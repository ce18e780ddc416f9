"""Load weights from a local file: torchvision's official files, files of `sideways export`, or your own."""

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import ConfigError, first_line
from common.models.temporal import CausalConv
from common.rule.skips import SKIPS

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts put the weights
_PARALLEL = "module."  # what DataParallel adds to every name
_SHOWN = 8


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load a file into `model`, except for a classifier of another shape, and for skips between stages.

    Returns the names of the tensors that are not loaded. A `CausalConv` that the file lacks is among them: it
    begins as the identity, so the model begins as that of the file.

    The classifier is the last layer with weights. The first convolution's RGB kernel is summed over the colours for a
    model with one channel, and gets zeros for the differences that `temporal = "motion"` adds. Everything else must
    match.

    Raises:
        ConfigError: the file cannot be read, or names or shapes do not match; the message lists them.
    """
    tensors = read_weights(path)
    own = model.state_dict()
    skips = [name for name in tensors if name.startswith(SKIPS)]  # they belong to the split of the other run
    for name in skips:
        del tensors[name]
    for name in tensors.keys() & own.keys():
        if _is_grey_of(own[name], tensors[name]):
            tensors[name] = tensors[name].sum(1, keepdim=True)
    for name, channels in {} if _sees_motion(path) else _seeing_motion(model).items():
        if name in tensors and tensors[name].dim() == 4:
            tensors[name] = _widened(tensors[name], channels, own[name].shape[1])
    different = {name for name in tensors.keys() & own.keys() if tensors[name].shape != own[name].shape}
    classifier = _classifier(model)
    skipped = [name for name in classifier if name in tensors] if different & set(classifier) else []
    if misfits := sorted(different - set(skipped)):
        shapes = [f"{name} {list(tensors[name].shape)} instead of {list(own[name].shape)}" for name in misfits]
        raise ConfigError(
            f"weights = {str(path)!r} does not fit the model: {_some(shapes)}. Use the model, the model_args and the "
            f"data.size that the file was made with"
        )
    for name in skipped:
        tensors[name] = own[name]
    added = [name for name in _of_identities(model) if name not in tensors]
    found = model.load_state_dict(tensors, strict=False)
    lacking = [name for name in found.missing_keys if name not in added]
    missing = f"it lacks {_some(lacking)}" if lacking else ""
    extra = f"it has {_some(found.unexpected_keys)}, which the model does not have" if found.unexpected_keys else ""
    if problems := "; ".join(filter(None, (missing, extra))):
        raise ConfigError(f"weights = {str(path)!r} does not fit the model: {problems}. Use the model it was made with")
    return [*skipped, *skips, *added]


def _widened(kernel: Tensor, channels: int, inputs: int) -> Tensor:
    """A kernel that sees a frame's channels → one that also sees differences, with zeros for them."""
    if channels == 1 and kernel.shape[1] == 3:  # colours, and not a grey frame with two differences
        kernel = kernel.sum(1, keepdim=True)
    return F.pad(kernel, (0, 0, 0, 0, 0, inputs - channels)) if kernel.shape[1] == channels else kernel


def _sees_motion(path: Path) -> bool:
    """Whether a file says that its own model sees differences between frames: one written by `sideways`."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as opened:
        return '"motion"' in (opened.metadata() or {}).get("model_args", "")


def _seeing_motion(model: nn.Module) -> dict[str, int]:
    """The weights of convolutions that also see differences between frames, with the number of channels of a frame."""
    found = {name: getattr(module, "frame_channels", 0) for name, module in model.named_modules()}
    return {f"{name}.weight": channels for name, channels in found.items() if channels}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a name → tensor dictionary from a .safetensors or torch.save file. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"weights = {str(path)!r}: there is no such file; weights are not downloaded")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"weights = {str(path)!r} cannot be read: {reason}. It must be a .safetensors file, or names and tensors "
            f"saved by torch.save"
        ) from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(f"weights = {str(path)!r} does not hold a dictionary of names and tensors")
    wrapped = all(name.startswith(_PARALLEL) for name in content)
    return {_plain(name.removeprefix(_PARALLEL) if wrapped else name): value for name, value in content.items()}


def _plain(name: str) -> str:
    """A tensor's name without what the networks of TSM's published files add."""
    if name.startswith(("base_model.", "new_fc.")):
        return name.removeprefix("base_model.").replace(".net.", ".").replace("new_fc.", "fc.")
    return name


def _of_identities(model: nn.Module) -> list[str]:
    """The tensors of the blocks with weights that change nothing yet."""
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, CausalConv)}
    return [f"{name}.weight" for name, module in convolutions.items() if module.is_identity]


def _classifier(model: nn.Module) -> list[str]:
    """Names of the tensors of the last layer with weights."""
    layers = [
        name for name, module in model.named_modules() if "weight" in dict(module.named_parameters(recurse=False))
    ]
    return [name for name in model.state_dict() if layers and name.rpartition(".")[0] == layers[-1]]


def _is_grey_of(own: Tensor, given: Tensor) -> bool:
    if own.dim() != 4 or given.dim() != 4:
        return False
    return own.shape[1] == 1 and given.shape[1] == 3 and own.shape[2:] == given.shape[2:] and len(own) == len(given)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
