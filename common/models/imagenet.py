"""torchvision's image classifiers as sequences of blocks, with the same modules, outputs and tensor names.

Official weight files load, and exported weights load into torchvision's models. Every factory takes `classes` and
`channels`. With one channel the first convolution's kernel is summed over the colours, so the model computes what the
RGB model computes on a grey picture. Dropout and stochastic depth are kept. docs/models.md describes BatchNorm here.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models.chain import Block, Chain
from common.models.temporal import Motion
from common.models.vgg8 import Temporal, memory_before, normalisation, see_motion

Norm = Literal["batch", "group"]

_PATCH = 16  # side of vit_b_16's patches, in pixels


def resnet18(classes: int, channels: int = 3, norm: Norm = "batch", temporal: Temporal | None = None) -> Chain:
    """10 blocks: stem, 8 residual blocks, head. Input [B, channels, H, W] → logits [B, classes]."""
    return _resnet("resnet18", classes, channels, norm, temporal)


def resnet34(classes: int, channels: int = 3, norm: Norm = "batch", temporal: Temporal | None = None) -> Chain:
    """18 blocks: stem, 16 residual blocks, head. Input [B, channels, H, W] → logits [B, classes]."""
    return _resnet("resnet34", classes, channels, norm, temporal)


def resnet50(classes: int, channels: int = 3, norm: Norm = "batch", temporal: Temporal | None = None) -> Chain:
    """18 blocks: stem, 16 bottlenecks, head. Input [B, channels, H, W] → logits [B, classes]."""
    return _resnet("resnet50", classes, channels, norm, temporal)


def vgg11(classes: int, channels: int = 3, dropout: float = 0.5) -> Chain:
    """11 blocks: 8 convolutions, 3 linear layers. Input [B, channels, H, W], H and W ≥ 32 → logits [B, classes]."""
    return _vgg("vgg11", classes, channels, dropout)


def vgg16(classes: int, channels: int = 3, dropout: float = 0.5) -> Chain:
    """16 blocks: 13 convolutions, 3 linear layers. Input [B, channels, H, W], H and W ≥ 32 → logits [B, classes]."""
    return _vgg("vgg16", classes, channels, dropout)


def convnext_tiny(classes: int, channels: int = 3, stochastic_depth: float = 0.1) -> Chain:
    """23 blocks. Input [B, channels, H, W], H and W ≥ 32 → logits [B, classes]. Its norms are LayerNorms."""
    root = _original("convnext_tiny", classes, channels, stochastic_depth_prob=stochastic_depth)
    return Chain(root, {**dict(_features(root)), "head": Block(("avgpool", "classifier"))})


def mobilenet_v3_large(classes: int, channels: int = 3, norm: Norm = "batch", dropout: float = 0.2) -> Chain:
    """18 blocks. Input [B, channels, H, W] → logits [B, classes]."""
    own = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)  # as in the original
    root = _original("mobilenet_v3_large", classes, channels, dropout=dropout, norm_layer=_norm_layer(norm, own))
    return Chain(root, {**dict(_features(root)), "head": Block(("avgpool", "classifier"), _pool_and_classify)})


def efficientnet_b0(
    classes: int, channels: int = 3, norm: Norm = "batch", dropout: float = 0.2, stochastic_depth: float = 0.2
) -> Chain:
    """19 blocks. Input [B, channels, H, W] → logits [B, classes]."""
    options = {"dropout": dropout, "stochastic_depth_prob": stochastic_depth, "norm_layer": _norm_layer(norm)}
    root = _original("efficientnet_b0", classes, channels, **options)
    return Chain(root, {**dict(_features(root)), "head": Block(("avgpool", "classifier"), _pool_and_classify)})


def vit_b_16(classes: int, channels: int = 3, size: int | tuple[int, int] = 224, dropout: float = 0.0) -> Chain:
    """14 blocks: tokens, 12 transformer layers, head. Input [B, channels, size, size] → logits [B, classes].

    Raises:
        ConfigError: `size` (data.size in a run) is not a square, or not a multiple of 16.
    """
    if not isinstance(size, int):
        raise ConfigError(f"vit_b_16 needs square frames: set data.size to a number, not to {list(size)}")
    if size % _PATCH:
        raise ConfigError(
            f"vit_b_16 cuts frames into patches of {_PATCH} × {_PATCH} pixels, so data.size = {size} must be a "
            f"multiple of {_PATCH}: use {max(_PATCH, size // _PATCH * _PATCH)}, or 224, which official weights need"
        )
    root = _original("vit_b_16", classes, channels, image_size=size, dropout=dropout)
    layers = (f"encoder.layers.{name}" for name, _ in root.get_submodule("encoder.layers").named_children())
    blocks = {"tokens": Block(("class_token", "conv_proj", "encoder.pos_embedding", "encoder.dropout"), _tokens)}
    blocks.update({path.rpartition(".")[2]: Block((path,)) for path in layers})
    return Chain(root, {**blocks, "head": Block(("encoder.ln", "heads"), _classify_token)})


def _resnet(name: str, classes: int, channels: int, norm: Norm, temporal: Temporal | None) -> Chain:
    """Memory comes before the stem (motion), or inside each residual block before its first convolution, as in TSM."""
    root = _original(name, classes, channels, norm_layer=_norm_layer(norm))
    stem, blocks = ["conv1", "bn1", "relu", "maxpool"], {}
    if isinstance(memory := memory_before(temporal, True, channels), Motion):
        root.add_module("motion", memory)
        see_motion(root.get_submodule("conv1"), memory)
        stem.insert(0, "motion")
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        for path in _children(root, layer):
            blocks[path] = Block((path,))
            _remember(root.get_submodule(path), temporal)
    return Chain(root, {"stem": Block(tuple(stem)), **blocks, "head": Block(("avgpool", "fc"), _pool_and_fc)})


def _remember(block: nn.Module, temporal: Temporal | None) -> None:
    """Let the first convolution of a residual block also see earlier inputs. The names of its tensors stay."""
    convolution = block.get_submodule("conv1")
    assert isinstance(convolution, nn.Conv2d)
    memory = memory_before(temporal, False, convolution.in_channels)
    if memory is not None:
        block.add_module("memory", memory)
        convolution.register_forward_pre_hook(partial(_through, memory))  # a copy of the block copies the memory, too


def _through(memory: nn.Module, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    remembered: Tensor = memory(*inputs)
    return remembered


def _vgg(name: str, classes: int, channels: int, dropout: float) -> Chain:
    """A block is a convolution with its ReLU and the pooling after it, if any, which keeps the edge small."""
    root = _original(name, classes, channels, dropout=dropout)
    blocks: dict[str, Block] = {}
    for path in _children(root, "features"):
        if isinstance(root.get_submodule(path), nn.Conv2d):
            current = f"conv{len(blocks) + 1}"
            blocks[current] = Block((path,))
        else:
            blocks[current] = Block((*blocks[current].holds, path))
    linear = _children(root, "classifier")
    blocks["fc1"] = Block(("avgpool", *linear[:3]), _pool_and_first_linear)
    blocks["fc2"], blocks["fc3"] = Block(tuple(linear[3:6])), Block(tuple(linear[6:]))
    return Chain(root, blocks)


def _original(name: str, classes: int, channels: int, **options: Any) -> nn.Module:
    from common.torchvision_import import models  # takes seconds to import, so only when needed

    root: nn.Module = getattr(models, name)(num_classes=classes, **options)
    if channels == 1:
        first = next(module for module in root.modules() if isinstance(module, nn.Conv2d))
        first.in_channels, first.weight = 1, nn.Parameter(first.weight.detach().sum(1, keepdim=True))
    return root


def _norm_layer(norm: Norm, own: Any = nn.BatchNorm2d) -> Any:
    """A function from the number of channels to a normalisation layer. Raises ValueError."""
    if norm not in ("batch", "group"):
        raise ValueError(f"norm = {norm!r} is unknown. Allowed: 'batch', 'group'")
    return own if norm == "batch" else partial(normalisation, "group")


def _children(root: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, _ in root.get_submodule(path).named_children()]


def _features(root: nn.Module) -> Iterator[tuple[str, Block]]:
    """The blocks of `features`: its children, with a sequence of residual blocks split into those."""
    for path in _children(root, "features"):
        child = root.get_submodule(path)
        is_row = type(child) is nn.Sequential and not isinstance(child[-1], nn.Conv2d)  # keep (norm, convolution)
        for part in _children(root, path) if is_row else [path]:
            yield part, Block((part,))


# ---- operations of the originals' forward methods that are not modules


def _pool_and_fc(tree: nn.Module, x: Tensor) -> Tensor:
    return tree.get_submodule("fc")(torch.flatten(tree.get_submodule("avgpool")(x), 1))


def _pool_and_classify(tree: nn.Module, x: Tensor) -> Tensor:
    return tree.get_submodule("classifier")(torch.flatten(tree.get_submodule("avgpool")(x), 1))


def _pool_and_first_linear(tree: nn.Module, x: Tensor) -> Tensor:
    x = torch.flatten(tree.get_submodule("avgpool")(x), 1)
    for number in range(3):
        x = tree.get_submodule(f"classifier.{number}")(x)
    return x


def _tokens(tree: nn.Module, x: Tensor) -> Tensor:
    """[B, channels, size, size] → [B, 1 + patches, width]: class token and patches, plus position embeddings."""
    patches = tree.get_submodule("conv_proj")(x).flatten(2).transpose(1, 2)
    first = tree.get_parameter("class_token").expand(patches.shape[0], -1, -1)
    positions = tree.get_parameter("encoder.pos_embedding")
    return tree.get_submodule("encoder.dropout")(torch.cat([first, patches], dim=1) + positions)


def _classify_token(tree: nn.Module, x: Tensor) -> Tensor:
    return tree.get_submodule("heads")(tree.get_submodule("encoder.ln")(x)[:, 0])
