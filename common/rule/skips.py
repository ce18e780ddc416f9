"""Skip connections between stages: a stage also takes what stages further below have just computed (Skip-Sideways).

    x_i(k) = y_{i-1}(k-1) + Σ_s P_{s,i} pool_i(y_s(k-1))                for the skips s → i, s < i - 1
    g_s(k) = r_{s+1}(k-1) + Σ_i pool_iᵀ r_{s,i}(k-1)                    r_{s,i} = (∂H_i/∂ pool_i(y_s))ᵀ g_i

A skip passes by i - 1 - s stages, so it brings a frame that is as many frames newer. Where edges take several ticks
(schedule.py), a skip takes as long as the longest edge that it passes by. Rows in which that frame already is of
another clip count as zero, and gradients are gated by clip as all others are.

Malinowski et al., CVPR 2021 (arXiv 2106.08318), give the rule. How outputs of other shapes are added is ours: the
source pools its output to the size of the target's input, so that little is sent, and the target projects it by P, a
1 × 1 convolution that starts at zero, so that the pipeline begins as one without skips.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Config
from common.rule.gate import gate
from common.rule.host_values import HostValues
from common.rule.packet import Packet
from common.rule.pooling import Shape, channels_of, pool_to
from common.rule.schedule import schedule_of
from common.rule.updater import Updater

SKIPS = "skips."  # the prefix of their weights' names in the whole model
Skip = tuple[int, int]  # from, to


def sources(skips: Sequence[Skip], stage: int) -> tuple[int, ...]:
    """The stages from which skips lead to `stage`, in order."""
    return tuple(sorted(source for source, target in skips if target == stage))


def targets(skips: Sequence[Skip], stage: int) -> tuple[int, ...]:
    """The stages to which skips lead from `stage`, in order."""
    return tuple(sorted(target for source, target in skips if source == stage))


class Merge(nn.Module):
    """Adds what the skips bring to a stage's input: Σ_s P_{s,i}(y_s).

    Attributes:
        skips: P by "SOURCE-STAGE", in the order of the sources: [channels of the input, channels of the output]
        updater: of these weights, which have the stage's mismatch.
    """

    def __init__(
        self, config: Config, stage: int, outputs: Sequence[Shape], total_ticks: int, device: torch.device
    ) -> None:
        """`outputs`: shapes of the outputs of the stages below, at least; `total_ticks`: of the whole training."""
        super().__init__()
        channels = channels_of(outputs[stage - 1])
        self.skips = nn.ParameterDict()
        for source in sources(config.skip_pairs, stage):
            weight = torch.zeros(channels, channels_of(outputs[source]), device=device)
            self.skips[f"{source}-{stage}"] = nn.Parameter(weight)  # one by one: from a dict it would sort them by name
        mismatch = schedule_of(config).mismatch(stage)
        self.updater = Updater(self, config.optimiser, config.rule.every, mismatch, total_ticks)
        self._masks = [HostValues() for _ in self.skips]

    def forward(self, x: Tensor, skipped: Sequence[Tensor]) -> Tensor:
        """The merged input, of the shape and dtype of x.

        Args:
            x: what the stage below sends, [rows, …].
            skipped: what the sources send, in their order, pooled: [rows, …] each.
        """
        for weight, y in zip(self.skips.values(), skipped, strict=True):
            x = x + project(y, weight).to(x.dtype)
        return x

    def leaf(self, number: int, packet: Packet, held: Packet) -> Tensor:
        """What a source sends, as a leaf for autograd; rows of another clip than the held frames' are zeroed in place.

        `number` counts the sources.
        """
        gate(packet, held, self._masks[number])
        return packet.tensor.detach()


class WholeClips(nn.Module):
    """A model with skips as one module: the frames of one clip, in order → its outputs for them."""

    def __init__(self, parts: Sequence[nn.Module], merges: Sequence[Merge | None], config: Config) -> None:
        """`parts` and `merges`: by stage."""
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.merges = nn.ModuleDict({str(i): merge for i, merge in enumerate(merges) if merge is not None})
        schedule, skips = schedule_of(config), config.skip_pairs
        self._newer = [
            {source: schedule.frames_newer(source, stage) for source in sources(skips, stage)}
            for stage in range(len(parts))
        ]

    def forward(self, x: Tensor) -> Tensor:
        """[frames, channels, height, width] → [frames, …]."""
        outputs: list[Tensor] = []
        for stage, part in enumerate(self.parts):
            if self._newer[stage]:
                pooled = ((pool_to(x.shape, outputs[s]), frames) for s, frames in self._newer[stage].items())
                x = self.merges[str(stage)](x, [_later(y, frames) for y, frames in pooled])
            x = part(x)
            outputs.append(x)
        return x


def _later(y: Tensor, frames: int) -> Tensor:
    """Each frame's row becomes that of a later frame; zero beyond the end of the clip."""
    return F.pad(y, [*[0, 0] * (y.ndim - 1), 0, frames])[frames:]


def merge_of(
    config: Config, stage: int, outputs: Sequence[Shape], total_ticks: int, device: torch.device
) -> Merge | None:
    """The merge of a stage; None if no skip leads to it."""
    return Merge(config, stage, outputs, total_ticks, device) if sources(config.skip_pairs, stage) else None


def project(y: Tensor, weight: Tensor) -> Tensor:
    """P(y), [rows, channels of the input, …], from what a source sends; `weight`: [channels of the input, of y]."""
    return F.conv2d(y, weight[:, :, None, None]) if y.ndim == 4 else F.linear(y, weight)
