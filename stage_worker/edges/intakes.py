"""Builds the intakes of what feeds the pipeline: stage 0's frames, and the top stage's frame-sized targets."""

import torch

from common.config.settings import Config
from common.errors import ConfigError
from common.models.shapes import TensorSpec
from common.processes.membership import Membership
from common.rule.label_form import LabelForm
from common.rule.memory_format import arranged
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges.frame_intake import FrameIntake
from stage_worker.edges.frame_socket import FrameSocket
from stage_worker.edges.target_intake import TargetIntake

_FRAMES_QUEUED = 4  # batches queued in stage 0's socket at most
_TARGETS_QUEUED = 9  # likewise in the top stage's, beside those whose frames are between stage 0 and the top


def frame_intake(
    config: Config, me: Membership, device: torch.device, labels: LabelForm, work: WorkClock
) -> FrameIntake:
    """Stage 0's. `labels`: form of the rows' labels."""
    shape = torch.Size(config.frame_shape)
    socket = FrameSocket(
        me,
        config.network,
        shape,
        _FRAMES_QUEUED,
        "stage 0",
        shares_memory=me.on_feeder_host and config.network.transport != "gloo",
        pinned=device.type == "cuda",
        work=work,
        pixel_type=config.data.pixel_type,
        labels=labels,
    )
    packet = Packet(shape, torch.float32, device, labels=labels, channels_last=config.channels_last)
    return FrameIntake(socket, packet, Normaliser(*config.data.normalisation, device))


def target_intake(
    config: Config, me: Membership, device: torch.device, output: TensorSpec, work: WorkClock
) -> TargetIntake | None:
    """The top stage's, whose output is `output`; None for tasks with labels, which ride with the rows.

    Raises:
        ConfigError: the output does not have the shape of a frame batch.
    """
    if config.has_labels:
        return None
    shape = torch.Size(config.frame_shape)
    if output[0] != shape:
        raise ConfigError(
            f'task = "{config.task}" compares the model\'s output with the frame, but the output is '
            f"{list(output[0])} and the frame {list(shape)}: change the model or data.size"
        )
    socket = FrameSocket(
        me,
        config.network,
        shape,
        config.ticks_to_top + _TARGETS_QUEUED,
        f"stage {me.stage} (targets)",
        work=work,
        wait=Kind.WAIT_TARGETS,
        pixel_type=config.data.pixel_type,
    )
    out = arranged(torch.zeros(shape, device=device), config.channels_last)
    return TargetIntake(socket, out, Normaliser(*config.data.normalisation, device))
