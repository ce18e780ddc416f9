"""What a stage takes and gives: the shapes of its input and output, and its links to other stages."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.config.settings import Config
from common.models.shapes import TensorSpec, activation_shapes
from common.rule.precision import casting
from common.rule.schedule import Schedule
from common.rule.skips import targets
from stage_worker.edges.links import Links, links_of


@dataclass(frozen=True)
class StageShapes:
    """Shapes and dtypes.

    Attributes:
        outputs: of the stages from the bottom to this one, and on to the last that its skips go to.
        input, output: of this stage. Stage 0's input is a frame batch.
        links: to other stages.
    """

    outputs: Sequence[TensorSpec]
    input: TensorSpec
    output: TensorSpec
    links: Links


def stage_shapes(
    stage: int, parts: Sequence[nn.Sequential], config: Config, schedule: Schedule, device: torch.device
) -> StageShapes:
    """Find the shapes by passing a frame batch through the blocks; on a GPU without computing anything.

    Args:
        parts: the blocks of every stage, on the CPU.
        device: on which the stage will compute.
    """
    last = max([stage, *targets(config.skip_pairs, stage)])
    outputs = _outputs(parts[: last + 1], config, device)
    frames = torch.Size(config.frame_shape), torch.float32
    links = links_of(stage, schedule, config.skip_pairs, outputs)
    return StageShapes(outputs, outputs[stage - 1] if stage else frames, outputs[stage], links)


def _outputs(parts: Sequence[nn.Sequential], config: Config, device: torch.device) -> list[TensorSpec]:
    if config.precision != "float32":  # which layers output bfloat16 depends on the device
        parts = [copy.deepcopy(part).to(device) for part in parts]
    with casting(config, device):
        return activation_shapes(parts, config.frame_shape, without_computing=device.type == "cuda")
