"""Builds the stages of a run: each with its auxiliary loss and the merge of its skips."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from common.config.settings import Config
from common.rule.auxiliary import auxiliary_of
from common.rule.skips import merge_of, targets
from common.rule.stage import Stage


def make_stage(
    blocks: nn.Sequential,
    index: int,
    config: Config,
    outputs: Sequence[tuple[torch.Size, torch.dtype]],
    classes: int,
    total_ticks: int,
    device: torch.device,
    replica: int = 0,
    kind: Callable[..., Stage] = Stage,
) -> Stage:
    """A stage of a run, with its auxiliary loss and the merge of its skips.

    Args:
        blocks: this stage's part of the model, on `device`.
        outputs: shapes and dtypes of the outputs of the stages from 0 to this one, or to the last one below a target of
            its skips.
        total_ticks: ticks of the whole training.
        replica: number of this copy of the stage.
        kind: what creates it; default: `Stage`.
    """
    shapes = [shape for shape, _ in outputs]
    auxiliary = auxiliary_of(config, index, shapes[index], classes, total_ticks, device)
    merge = merge_of(config, index, shapes, total_ticks, device)
    skip_targets = [shapes[target - 1] for target in targets(config.skip_pairs, index)]
    return kind(blocks, index, config, total_ticks, auxiliary, merge, skip_targets, replica, classes)
