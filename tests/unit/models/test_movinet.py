"""MoViNet-A0: a stream of frames and a whole clip at once, cut into stages, and in the pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.models import build, part
from common.models.movinet import RunningMean, movinet_a0
from common.models.temporal import whole_clips
from common.rule.memories import Memories
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from tests.support.settings import config_of

FRAMES = 5


@pytest.fixture(scope="module")
def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    model = movinet_a0(5).eval()
    for module in model.modules():
        if hasattr(module, "fits"):  # temporal convolutions begin as the identity
            for weight in module.parameters():
                torch.nn.init.normal_(weight, std=0.5)
    return model


def clip() -> torch.Tensor:
    return torch.randn(FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def streamed(model: torch.nn.Sequential) -> torch.Tensor:
    memories, outputs = Memories(model), []
    with torch.no_grad():
        for tick, frame in enumerate(clip()):
            memories.begin(np.array([7]), tick, torch.device("cpu"))
            outputs.append(model(frame[None]))
    return torch.cat(outputs)


def test_a_stream_gives_what_a_whole_clip_gives(model: torch.nn.Sequential) -> None:
    with torch.no_grad(), whole_clips(model):
        at_once = model(clip())
    found = streamed(model)
    torch.testing.assert_close(found, at_once, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        alone = model(clip())  # each frame as the first of a clip
    assert torch.allclose(found[:1], alone[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1:], alone[1:], rtol=1e-2, atol=1e-3), "the past must have an effect"


def test_the_paper_has_three_million_parameters_for_600_classes() -> None:
    """Table 1 says 3.1 million for A0; squeeze-and-excitation and norms of ours differ a little."""
    assert 2.6e6 < sum(value.numel() for value in movinet_a0(600).parameters()) < 3.4e6


def test_a_running_mean_is_that_of_the_frames_so_far() -> None:
    block = RunningMean()
    memories, frames = Memories(torch.nn.Sequential(block)), clip()
    for tick in range(FRAMES):
        memories.begin(np.array([0]), tick, torch.device("cpu"))
        torch.testing.assert_close(block(frames[tick : tick + 1])[0], frames[: tick + 1].mean((0, 2, 3)))


def test_it_is_cut_between_its_blocks_and_trains_as_a_pipeline(tmp_path: Path) -> None:
    config = config_of(tmp_path, model="movinet_a0", model_args={}, stages=3, split=[6, 6, 5])
    whole = build(config, 5)
    parts = [part(whole, [6, 6, 5], stage) for stage in range(3)]
    assert [key for piece in parts for key in piece.state_dict()] == list(whole.state_dict())
    stages = build_stages(config, 5, 100)
    before = [[value.clone() for value in stage.blocks.parameters()] for stage in stages]
    reference, packet = Reference(stages, config.frame_shape), Packet(config.frame_shape)
    for tick in range(7):
        packet.set_header(tick - 1, tick)
        packet.tensor.copy_(torch.randn(config.frame_shape, generator=torch.Generator().manual_seed(tick)))
        loss = reference.tick(packet)
    assert loss is not None
    assert loss.isfinite()
    for stage, old in zip(stages, before, strict=True):
        assert all(not torch.equal(new, was) for new, was in zip(stage.blocks.parameters(), old, strict=True))
