"""A plain convolutional network of 8 weight layers, similar to the paper's VGG-8: strides instead of pooling."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from common.models.temporal import CausalConv, Memory, Motion, TemporalShift

Norm = Literal["group", "batch", "none"]
Temporal = Literal["motion", "shift", "conv"]

# (channels as a multiple of the width, stride) of the seven convolutions; the eighth layer is the classifier
_LAYERS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (4, 1))


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer `norm`. Raises ValueError for an unknown one.

    Models default to GroupNorm, as BatchNorm would see B correlated rows per tick.
    """
    if norm == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm = {norm!r} is unknown. Allowed: 'group', 'batch', 'none'")


def memory_before(temporal: Temporal | None, first: bool, channels: int, inplace: bool = False) -> Memory | None:
    """The memory before a convolution of so many input channels, the first one or another; None for none.

    `inplace`: the input is that of an activation, and nothing else uses it.

    Raises:
        ValueError: the kind is unknown.
    """
    if temporal == "motion":
        return Motion() if first else None
    if temporal == "shift":
        return None if first else TemporalShift(inplace=inplace)
    if temporal == "conv":
        return None if first else CausalConv(channels)
    if temporal is not None:
        raise ValueError(f"temporal = {temporal!r} is unknown. Allowed: 'motion', 'shift', 'conv'")
    return None


def see_motion(convolution: nn.Module, motion: Motion) -> None:
    """Widen a convolution's input by the differences that `motion` adds, with random weights for them.

    The number of channels of a frame stays known as its attribute `frame_channels` (weights.py).
    """
    assert isinstance(convolution, nn.Conv2d)
    weight, channels = convolution.weight.detach(), convolution.in_channels
    convolution.in_channels = channels * (1 + len(motion.gaps))
    wide = torch.empty(len(weight), convolution.in_channels, *weight.shape[2:])
    nn.init.kaiming_normal_(wide, nonlinearity="relu")
    convolution.weight = nn.Parameter(wide)
    convolution.frame_channels = channels  # type: ignore[assignment]


def vgg8(
    classes: int,
    channels: int = 3,
    width: int = 32,
    norm: Norm = "group",
    dropout: float = 0.0,
    temporal: Temporal | None = None,
) -> nn.Sequential:
    """Eight named blocks, conv1 … conv7 and head. Input [B, channels, H, W], H and W ≥ 8 → logits [B, classes].

    Args:
        width: channels of the first convolution; the widest has 4 × as many.
        norm: normalisation after each convolution.
        dropout: dropout probability of the pooled features, before the classifier.
        temporal: memory of earlier frames (common/models/temporal.py). motion: conv1 also sees the frame's differences
            to those 3 and 6 ticks ago. shift: before each other convolution, a quarter of the channels come from 4
            ticks ago. conv: before each other convolution, a causal depthwise convolution over 3 ticks.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    incoming = channels
    for number, (multiple, stride) in enumerate(_LAYERS, start=1):
        outgoing = multiple * width
        memory = memory_before(temporal, number == 1, incoming, inplace=True)
        convolution = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=norm == "none")
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        if isinstance(memory, Motion):
            see_motion(convolution, memory)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        layers: dict[str, nn.Module] = {"memory": memory} if memory is not None else {}
        layers |= {"conv": convolution, "norm": normalisation(norm, outgoing), "act": nn.ReLU(inplace=True)}
        blocks[f"conv{number}"] = nn.Sequential(OrderedDict(layers))
        incoming = outgoing
    classifier = nn.Linear(incoming, classes)
    nn.init.kaiming_normal_(classifier.weight, nonlinearity="linear")
    nn.init.zeros_(classifier.bias)
    head = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    if dropout:
        head["drop"] = nn.Dropout(dropout)
    head["linear"] = classifier
    blocks["head"] = nn.Sequential(head)
    return nn.Sequential(blocks)
