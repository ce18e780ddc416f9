"""The model zoo: a model is an nn.Sequential of named blocks, with one tensor between blocks.

`build` creates one of them, or the user's own model, with weights from the seed or from a file. `part` returns the
blocks of a stage. The blocks of a `Chain` keep the tensor names of an existing model.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from common.config.name_patterns import matching
from common.config.settings import Config
from common.errors import ConfigError
from common.models import imagenet, timm_models, user_code
from common.models.autoencoder import autoencoder
from common.models.chain import Chain, layered, runs_in_sequence
from common.models.cutting import cut
from common.models.freezing import freeze, freeze_norms
from common.models.movinet import movinet_a0
from common.models.published import find_weights
from common.models.synced_norm import sync_norms
from common.models.vgg8 import vgg8
from common.models.weights import load_weights
from common.processes.user_errors import describe_error

_TORCHVISION = (
    imagenet.resnet18,
    imagenet.resnet34,
    imagenet.resnet50,
    imagenet.vgg11,
    imagenet.vgg16,
    imagenet.convnext_tiny,
    imagenet.mobilenet_v3_large,
    imagenet.efficientnet_b0,
    imagenet.vit_b_16,
)
_FACTORIES: tuple[Callable[..., nn.Sequential], ...] = (vgg8, autoencoder, movinet_a0, *_TORCHVISION)
_SHOWN = 4  # obstacles
_ANY = 10  # classes, of which the number of blocks does not depend
ZOO = {factory.__name__: factory for factory in _FACTORIES}


def _ignore(text: str) -> None:
    """Discard the message."""


def build(config: Config, classes: int, warn: Callable[[str], None] = _ignore) -> nn.Sequential:
    """Build the whole model of a run, on the CPU. The same settings give the same weights in every process.

    `classes`, `channels` and `size` (a frame's side in pixels, or height and width) are passed to the factory if it has
    such parameters and `model_args` does not set them. `warn` is called with a message about tensors that
    `config.weights` did not set.

    Raises:
        ConfigError: the model or an argument is unknown, the factory does not return an nn.Sequential of blocks, the
            weights are not here, cannot be read or do not fit, or `freeze`, `norm` or `optimiser.rates` does not.
    """
    model = _cut(_make(config, classes, warn), config, warn).train()  # a factory may leave parts of it in eval mode
    weights = find_weights(config)
    if weights is not None and (skipped := load_weights(model, weights.path)):
        warn(
            f"{weights.path} is for another number of classes, of a run with skips between stages, or of a model that "
            f"does not remember: {', '.join(skipped)} not loaded, they start anew"
        )
    _choose_trained(model, config)
    return model


def count_blocks(config: Config) -> int | None:
    """The number of blocks, or layers, among which stages can be chosen; None if it takes foreign code to know it.

    Of models of the zoo, whose blocks are counted without computing anything, so that no thread is started.

    Raises:
        ConfigError: an argument is unknown.
    """
    if config.model not in ZOO:
        return None
    with torch.device("meta"):
        return len(_cut(_make(config, _ANY, _ignore), config, _ignore))


def _choose_trained(model: nn.Module, config: Config) -> None:
    """Freeze what is not trained. Raises ConfigError if a pattern, of the learning rates too, matches nothing."""
    freeze(model, config.freeze)
    if config.norm == "frozen":
        freeze_norms(model)
    if config.norm == "sync":
        sync_norms(model)
    for pattern in config.optimiser.rates:
        matching((name for name, _ in model.named_parameters()), pattern, "optimiser.rates")


def _make(config: Config, classes: int, warn: Callable[[str], None]) -> nn.Sequential:
    factory = _factory(config.model)
    accepted = inspect.signature(factory).parameters
    given = {"classes": classes, "channels": config.data.channels, "size": config.data.size}
    arguments = {**{key: value for key, value in given.items() if key in accepted}, **config.model_args}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            with user_code.no_exit(f"model = {config.model!r}"):
                model = user_code.with_torchvision(lambda: factory(**arguments))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"model = {config.model!r} cannot be built with model_args = {config.model_args}: "
                f"{describe_error(error)}. "
                f"Its parameters: {', '.join(accepted)}"
            ) from error
    if isinstance(model, nn.Sequential) and len(model) > 0 and runs_in_sequence(model):
        return model
    if isinstance(model, nn.Module) and any(True for _ in model.parameters()):
        return _as_blocks(model, config, warn)
    raise ConfigError(
        f"model = {config.model!r} returned {type(model).__name__}: it must return a model with weights, best an "
        f"nn.Sequential of the blocks to be split, with one tensor between them"
    )


def _as_blocks(model: nn.Module, config: Config, warn: Callable[[str], None]) -> Chain:
    """A model that is no sequence, cut into blocks where a single tensor passes. Raises ConfigError."""
    try:
        found = cut(model, config.frame_shape[1:])
    except ConfigError as error:
        raise ConfigError(
            f"model = {config.model!r} returned {type(model).__name__}, which cannot be cut into blocks: {error}. "
            f"Return an nn.Sequential of blocks, or a Chain (docs/models.md), with one tensor between them"
        ) from error
    if config.stages > len(found.chain):
        places = "; ".join(found.obstacles[:_SHOWN]) or "it has no further modules with weights"
        warn(f"model = {config.model!r} is cut into {len(found.chain)} blocks. No other can begin: {places}")
    return found.chain


def _cut(model: nn.Sequential, config: Config, warn: Callable[[str], None]) -> nn.Sequential:
    """The model as blocks or as layers, whichever stages begin at."""
    too_few = config.stages > len(model)
    if config.cuts == "blocks" or (config.cuts == "auto" and not too_few):
        return model
    layers = layered(model, [name for name, _ in named_blocks(model)])
    if config.cuts == "auto" and config.stages <= len(layers):  # else they are too few, which is an error
        warn(
            f"{config.stages} stages, but the model has {len(model)} blocks: stages also begin inside blocks, at their "
            'layers (cuts = "layers")'
        )
    return layers


def named_blocks(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The model's blocks with their names, including a module that occurs several times, such as an activation."""
    if isinstance(model, Chain):
        return list(zip(model.block_names, model, strict=True))
    return list(model._modules.items())  # named_children() would omit repeated modules


def part(model: nn.Sequential, split: Sequence[int], stage: int) -> nn.Sequential:
    """The blocks of one stage. Blocks and tensors keep their names in the whole model."""
    first = sum(split[:stage])
    mine = slice(first, first + split[stage])
    return model[mine] if isinstance(model, Chain) else nn.Sequential(OrderedDict(named_blocks(model)[mine]))


def _factory(name: str) -> Callable[..., Any]:
    if name in ZOO:
        return ZOO[name]
    if name.startswith(timm_models.PREFIX):
        return timm_models.factory(name.removeprefix(timm_models.PREFIX))
    if not user_code.is_reference(name):
        raise ConfigError(
            f"model = {name!r} is unknown. Allowed: {', '.join(ZOO)}, timm:NAME, or path/to/file.py:factory for your "
            f"own"
        )
    return user_code.load_attribute(name, "model")
