"""Forward passes of a pipeline in one process."""

import pytest
import torch
from torch import Tensor, nn

from common.config.settings import Config, Data, Network, Optimiser
from common.rule.inference import Inference
from common.rule.packet import Packet
from common.rule.skips import WholeClips
from common.rule.stage import Stage
from common.rule.stage_factory import make_stage

CPU = torch.device("cpu")
WIDTH, FRAMES, STAGES = 4, 7, 4
SKIPS = [(0, 2), (0, 3), (1, 3)]


def stages_of(skips: list[tuple[int, int]], edge_ticks: int | list[int] = 1) -> list[Stage]:
    data, network = Data(train="."), Network(edge_ticks=edge_ticks)
    config = Config(stages=STAGES, ticks=1, data=data, optimiser=Optimiser(), skips=skips, network=network)
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(STAGES)]
    outputs = [(torch.Size((1, WIDTH)), torch.float32)] * STAGES
    stages = [make_stage(part, i, config, outputs, 5, 1, CPU) for i, part in enumerate(parts)]
    for stage in stages:
        for weight in stage.merge.parameters() if stage.merge is not None else ():
            nn.init.normal_(weight)
    return stages


def play(stages: list[Stage], frames: Tensor, clips: list[int]) -> dict[int, Tensor]:
    """The outputs by frame."""
    inference, outputs = Inference(stages, (1, WIDTH)), {}
    for number in range(len(frames) + inference.delay):
        if number < len(frames):
            packet = Packet((1, WIDTH))
            packet.set_header(number - 1, number)
            packet.clips[:] = clips[number]
            packet.tensor.copy_(frames[number])
            result = inference.tick(packet)
        else:
            result = inference.drain()
        if result is not None:
            outputs[result[0].frame] = result[1].clone()
    return outputs


def test_without_skips_it_is_the_model() -> None:
    stages, frames = stages_of([]), torch.randn(FRAMES, WIDTH)
    model = nn.Sequential(*(stage.blocks for stage in stages))
    outputs = play(stages, frames, [1] * FRAMES)
    assert sorted(outputs) == list(range(FRAMES))
    for number, y in outputs.items():
        torch.testing.assert_close(y[0], model(frames[number]).detach())


@pytest.mark.parametrize("edge_ticks", [1, 3, [2, 1, 3]])
def test_with_skips_it_is_the_module_of_whole_clips_for_each_clip(edge_ticks: int | list[int]) -> None:
    """In a pipeline a skip brings a newer frame, and nothing beyond the end of a clip."""
    stages, frames = stages_of(SKIPS, edge_ticks), torch.randn(FRAMES, WIDTH)
    whole = WholeClips([stage.blocks for stage in stages], [stage.merge for stage in stages], stages[0].config)
    outputs = play(stages, frames, [1] * 5 + [2] * 2)
    expected = torch.cat([whole(frames[:5]), whole(frames[5:])]).detach()
    torch.testing.assert_close(torch.cat([outputs[number] for number in range(FRAMES)]), expected)
