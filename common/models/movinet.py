"""MoViNet-A0 for streams (Kondratyuk et al., "MoViNets: Mobile Video Networks", CVPR 2021), frame by frame.

Its 3D convolutions are causal and factorised as (2 + 1)D: a tick convolves one frame in space, and a memory holds the
earlier frames that the depthwise convolutions in time need (the paper's stream buffers). Squeeze-and-excitation and the
classifier average over space and over the clip so far, the paper's causal form.

Widths, kernels and strides are the paper's A0. Ours: GroupNorm by default, temporal convolutions begin as the identity,
a clip's first frame is all of its past where the paper has zeros, and no gradient passes to earlier frames.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.models.temporal import CausalConv, Memory
from common.models.vgg8 import Norm, normalisation


class _Layer(NamedTuple):
    width: int  # channels of the output
    expanded: int
    frames: int  # the kernel in time
    kernel: int  # in space
    stride: int = 1


_GROUPS = (
    (_Layer(8, 24, 1, 5, 2),),
    (_Layer(32, 80, 3, 3, 2), _Layer(32, 80, 3, 3), _Layer(32, 80, 3, 3)),
    (_Layer(56, 184, 5, 3, 2), _Layer(56, 112, 3, 3), _Layer(56, 184, 3, 3)),
    (_Layer(56, 184, 5, 3), _Layer(56, 184, 3, 3), _Layer(56, 184, 3, 3), _Layer(56, 184, 3, 3)),
    (_Layer(104, 384, 5, 3, 2), _Layer(104, 280, 1, 5), _Layer(104, 280, 1, 5), _Layer(104, 344, 1, 5)),
)
_STEM, _TOP, _HIDDEN = 8, 480, 2048


def movinet_a0(classes: int, channels: int = 3, norm: Norm = "group", dropout: float = 0.2) -> nn.Sequential:
    """17 named blocks: stem, block1_0 … block5_3, head. Input [B, channels, H, W] → logits [B, classes].

    Args:
        norm: normalisation after each convolution.
        dropout: dropout probability before the classifier.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(channels, _STEM, 3, norm, stride=2))
    incoming = _STEM
    for group, layers in enumerate(_GROUPS, start=1):
        for number, layer in enumerate(layers):
            blocks[f"block{group}_{number}"] = Bottleneck(incoming, layer, norm)
            incoming = layer.width
    blocks["head"] = nn.Sequential(
        OrderedDict(
            conv=_convolution(incoming, _TOP, 1, norm),
            pool=RunningMean(),
            hidden=nn.Linear(_TOP, _HIDDEN),
            act=nn.Hardswish(),
            drop=nn.Dropout(dropout),
            linear=nn.Linear(_HIDDEN, classes),
        )
    )
    return nn.Sequential(blocks)


class Bottleneck(nn.Module):
    """An inverted residual block: expand, convolve in space and in time channel by channel, weigh channels, project."""

    def __init__(self, incoming: int, layer: _Layer, norm: Norm) -> None:
        super().__init__()
        width, expanded, frames, kernel, stride = layer
        self.expand = _convolution(incoming, expanded, 1, norm)
        self.space = _convolution(expanded, expanded, kernel, norm, stride, groups=expanded)
        self.time = nn.Sequential()
        if frames > 1:
            self.time = nn.Sequential(
                OrderedDict(conv=CausalConv(expanded, frames), norm=normalisation(norm, expanded), act=nn.Hardswish())
            )
        self.weigh = SqueezeExcite(expanded)
        self.project = _convolution(expanded, width, 1, norm, activation=False)
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if stride > 1:
            shortcut["pool"] = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        if incoming != width:
            shortcut["conv"] = _convolution(incoming, width, 1, norm, activation=False)
        self.shortcut = nn.Sequential(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, height, width] → [rows, width of the layer, height / stride, width / stride]."""
        y: Tensor = self.project(self.weigh(self.time(self.space(self.expand(x)))))
        return y + self.shortcut(x)


class SqueezeExcite(nn.Module):
    """Weighs channels by what their means over the clip so far say (Hu et al., CVPR 2018, causal)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, round(channels / 4 / 8) * 8)
        self.mean = RunningMean()
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, height, width] → the same shape."""
        hidden = nn.functional.hardswish(self.squeeze(self.mean(x)))
        return x * nn.functional.hardsigmoid(self.excite(hidden))[:, :, None, None]


class RunningMean(Memory):
    """The mean over space and over the clip's frames so far. The memory is their sum and their number, float32."""

    def initial(self, x: Tensor) -> Tensor:
        """Zeros, [rows, channels + 1]."""
        return x.new_zeros(x.shape[0], x.shape[1] + 1, dtype=torch.float32)

    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        """[rows, channels, height, width] → [rows, channels]."""
        total, number = state[:, :-1] + x.float().mean((2, 3)), state[:, -1:] + 1
        return (total / number).to(x.dtype), torch.cat([total, number], 1)

    def clip(self, x: Tensor) -> Tensor:
        """All rows at once."""
        numbers = torch.arange(1, x.shape[0] + 1, device=x.device)[:, None]
        return (x.float().mean((2, 3)).cumsum(0) / numbers).to(x.dtype)


def _convolution(
    incoming: int, outgoing: int, kernel: int, norm: Norm, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    convolution = nn.Conv2d(incoming, outgoing, kernel, stride, padding=kernel // 2, groups=groups, bias=norm == "none")
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu" if activation else "linear")
    layers = OrderedDict[str, nn.Module](conv=convolution, norm=normalisation(norm, outgoing))
    return nn.Sequential(layers | ({"act": nn.Hardswish()} if activation else {}))
