"""A convolutional autoencoder of single frames: three strided convolutions down, three upsamplings back."""

from collections import OrderedDict

from torch import nn

from common.models.temporal import Motion
from common.models.vgg8 import Norm, Temporal, memory_before, normalisation, see_motion


def autoencoder(
    channels: int = 3, width: int = 16, norm: Norm = "group", temporal: Temporal | None = None
) -> nn.Sequential:
    """Eight named blocks, enc1 … enc4 and dec4 … dec1. [B, channels, H, W], H and W multiples of 8 → the same shape.

    The output is in the units of the normalised input; the loss is the mean squared error between them.

    Args:
        width: channels of the first convolution; the widest have 4 × as many.
        norm: normalisation after each convolution but the last.
        temporal: memory of earlier frames, as in vgg8; none before the last convolution.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks["enc1"] = _encode(channels, width, 1, norm)
    blocks["enc2"] = _encode(width, 2 * width, 2, norm)
    blocks["enc3"] = _encode(2 * width, 4 * width, 2, norm)
    blocks["enc4"] = _encode(4 * width, 4 * width, 2, norm)
    blocks["dec4"] = _decode(4 * width, 4 * width, norm)
    blocks["dec3"] = _decode(4 * width, 2 * width, norm)
    blocks["dec2"] = _decode(2 * width, width, norm)
    for name, block in blocks.items():
        blocks[name] = _remembering(block, temporal, first=name == "enc1")
    blocks["dec1"] = _convolution(width, channels, 1, "linear")
    return nn.Sequential(blocks)


def _remembering(block: nn.Module, temporal: Temporal | None, first: bool) -> nn.Module:
    """A block with a memory before all else, if it gets one."""
    convolution = block.get_submodule("conv")
    assert isinstance(convolution, nn.Conv2d)
    memory = memory_before(temporal, first, convolution.in_channels, inplace=True)
    if memory is None:
        return block
    if isinstance(memory, Motion):
        see_motion(convolution, memory)
    return nn.Sequential(OrderedDict(memory=memory, **dict(block.named_children())))


def _convolution(incoming: int, outgoing: int, stride: int, gain: str) -> nn.Conv2d:
    layer = nn.Conv2d(incoming, outgoing, 3, stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity=gain)  # type: ignore[arg-type]
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _encode(incoming: int, outgoing: int, stride: int, norm: Norm) -> nn.Module:
    convolution = _convolution(incoming, outgoing, stride, "relu")
    return nn.Sequential(OrderedDict(conv=convolution, norm=normalisation(norm, outgoing), act=nn.ReLU(inplace=True)))


def _decode(incoming: int, outgoing: int, norm: Norm) -> nn.Module:
    up = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(OrderedDict(up=up, **dict(_encode(incoming, outgoing, 1, norm).named_children())))
