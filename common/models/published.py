"""Where the weights of a run come from: a file, or what timm's or torchvision's own tools left in this host's cache.

A run downloads nothing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from common.config.settings import IMAGENET_MEAN, IMAGENET_STD, Config
from common.errors import ConfigError
from common.models.timm_models import PREFIX, load_timm

_UNKNOWN = "not stated"


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        licence: as its publisher states it.
        mean, std: of the frames that the weights were trained on, by channel; empty if unknown.
    """

    path: Path
    licence: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def find_weights(config: Config) -> Weights | None:
    """The file that `weights` means; None if it is not set.

    Raises:
        ConfigError: there are no such weights, or none in this host's cache.
    """
    if config.weights == "timm":
        return _of_timm(config.model)
    if config.weights == "torchvision":
        return _of_torchvision(config.model)
    return Weights(config.weights, _licence_in(config.weights)) if config.weights is not None else None


def describe(config: Config) -> list[str]:
    """What to tell about the weights of a run: file, hash and licence, and whether they expect other frames."""
    found = find_weights(config)
    if found is None:
        return []
    with found.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lines = [f"weights: {found.path}, sha256 {digest}, licence: {found.licence}"]
    own = tuple(tuple(value) if isinstance(value, list) else (value,) * 3 for value in config.data.normalisation)
    if found.mean and config.data.channels == 3 and own != (found.mean, found.std):
        lines.append(
            f"these weights were trained on frames with mean {list(found.mean)} and std {list(found.std)}: set "
            f"data.mean and data.std to these"
        )
    return lines


def _of_timm(model: str) -> Weights:
    if not model.startswith(PREFIX):
        raise ConfigError(f'weights = "timm" is for models of timm, such as timm:convnextv2_nano, not {model!r}')
    name = model.removeprefix(PREFIX)
    settings = load_timm().get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise ConfigError(f'weights = "timm": timm has no weights for {name!r}. Leave weights out, or set it to a file')
    path = _in_hub(settings) or _in_torchs_cache(settings.url)
    if path is None:
        fetch = f"import timm; timm.create_model({name!r}, pretrained=True)"
        raise _not_cached(model, "timm", settings.hf_hub_id or settings.url, fetch)
    return Weights(path, settings.license or _UNKNOWN, tuple(settings.mean), tuple(settings.std))


def _in_hub(settings: Any) -> Path | None:
    """The file in the cache of huggingface_hub, which timm uses."""
    from huggingface_hub import try_to_load_from_cache

    names = [settings.hf_hub_filename] if settings.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    repository = settings.hf_hub_id
    found = [try_to_load_from_cache(repository, name) for name in names] if repository else []
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _of_torchvision(model: str) -> Weights:
    from common.torchvision_import import models

    if model not in models.list_models():
        raise ConfigError(f'weights = "torchvision" is for torchvision\'s models, such as resnet18, not {model!r}')
    url = models.get_model_weights(model).DEFAULT.url
    path = _in_torchs_cache(url)
    if path is None:
        fetch = f"import torch; torch.hub.load_state_dict_from_url({url!r})"
        raise _not_cached(model, "torchvision", url.rpartition("/")[2], fetch)
    return Weights(path, _UNKNOWN, tuple(IMAGENET_MEAN), tuple(IMAGENET_STD))


def _in_torchs_cache(url: str | None) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / (url or "").rpartition("/")[2]
    return path if path.is_file() else None


def _not_cached(model: str, library: str, file: str, fetch: str) -> ConfigError:
    return ConfigError(
        f'weights = "{library}": the weights of {model} ({file}) are not in the cache of this host, and a run '
        f'downloads nothing. Where there is a network, fetch them with: python -c "{fetch}", on every host of the run, '
        f"or set weights to a file"
    )


def _licence_in(path: Path) -> str:
    """What the metadata of a .safetensors file says."""
    if path.suffix != ".safetensors":
        return _UNKNOWN
    try:
        with safe_open(path, framework="pt") as opened:
            about = opened.metadata() or {}
    except (SafetensorError, OSError):  # whoever loads it reports that
        return _UNKNOWN
    return about.get("license") or about.get("licence") or _UNKNOWN
