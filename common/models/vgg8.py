"""A plain convolutional network of 8 weight layers, similar to the paper's VGG-8: strides instead of pooling."""

from collections import OrderedDict
from typing import Literal

from torch import nn

Norm = Literal["group", "batch", "none"]

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


def vgg8(classes: int, channels: int = 3, width: int = 32, norm: Norm = "group", dropout: float = 0.0) -> nn.Sequential:
    """Eight named blocks, conv1 … conv7 and head. Input [B, channels, H, W], H and W ≥ 8 → logits [B, classes].

    Args:
        width: channels of the first convolution; the widest has 4 × as many.
        norm: normalisation after each convolution.
        dropout: dropout probability of the pooled features, before the classifier.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    incoming = channels
    for number, (multiple, stride) in enumerate(_LAYERS, start=1):
        outgoing = multiple * width
        convolution = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=norm == "none")
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        blocks[f"conv{number}"] = nn.Sequential(
            OrderedDict(conv=convolution, norm=normalisation(norm, outgoing), act=nn.ReLU(inplace=True))
        )
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
