"""The order of maps in memory: which a run takes, and that stages and edges convert nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.errors import ConfigError
from common.models import build
from common.rule.memory_format import (
    arrange,
    arranged,
    as_in_memory,
    from_memory,
    sizes_in_memory,
    with_memory_format,
)
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from common.rule.stage import Stage
from tests.support.settings import config_of

BATCH_NORM = {"model_args": {"width": 16, "norm": "batch"}}


def taken(folder: Path, on_gpus: bool, **changes: object) -> str:
    config = config_of(folder, **changes)
    return with_memory_format(config, build(config, 3), on_gpus).memory_format


def test_auto_is_channels_last_where_it_wins(tmp_path: Path) -> None:
    assert taken(tmp_path, True, **BATCH_NORM) == "channels_last"
    assert taken(tmp_path, False, **BATCH_NORM) == "contiguous"
    assert taken(tmp_path, True) == "contiguous"  # GroupNorm
    assert taken(tmp_path, True, **BATCH_NORM, algorithm="gpipe", data__slots=4) == "contiguous"
    assert taken(tmp_path, False, memory_format="channels_last") == "channels_last"
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert with_memory_format(config_of(tmp_path), linear, True).memory_format == "contiguous"


def test_torchs_own_schedules_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'set memory_format to "contiguous"'):
        taken(tmp_path, False, memory_format="channels_last", algorithm="backprop")


def test_weights_keep_their_values_and_change_their_order() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    block = nn.Sequential(convolution, nn.Linear(2, 2))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    arrange(block)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


def test_memory_and_map_are_views_of_each_other() -> None:
    x = arranged(torch.randn(2, 3, 4, 5), True)
    memory = as_in_memory(x, True)
    assert tuple(memory.shape) == sizes_in_memory(x.shape, True) == (2, 4, 5, 3)
    assert memory.is_contiguous()
    assert torch.equal(from_memory(memory, True), x)
    assert from_memory(memory, True).data_ptr() == x.data_ptr()
    assert sizes_in_memory((2, 3), True) == (2, 3)


class Watched(Packet):
    """Notes what is packed in another order than the packet's."""

    converted: list[tuple[int, ...]]

    def pack(self, tick: int, source: Packet, tensor: Tensor) -> None:
        if not tensor.is_contiguous(memory_format=torch.channels_last):
            self.converted.append(tuple(tensor.shape))
        super().pack(tick, source, tensor)


@pytest.mark.parametrize("model", ["vgg8", "resnet18"])
def test_no_map_is_converted_between_stages(tmp_path: Path, model: str) -> None:
    options: dict[str, dict[str, object]] = {"vgg8": {**BATCH_NORM}, "resnet18": {"model_args": {}, "split": [4, 3, 3]}}
    config = config_of(tmp_path, model=model, stages=3, memory_format="channels_last", **options[model])
    Watched.converted = []
    run(config, 5)
    assert not Watched.converted


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_stage_restored_from_contiguous_tensors_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Fused optimisers read the memory of weights, gradients and their own state side by side."""
    arguments = {"momentum": 0.9} if name == "SGD" else {"betas": [0.9, 0.99]}
    changes = {**BATCH_NORM, "rule__every": 2, "optimiser__ema": 0.9, "optimiser__args": arguments}
    config = config_of(tmp_path, stages=1, memory_format="channels_last", optimiser__name=name, **changes)
    first, second = build_stages(config, 3, 10)[0], build_stages(config, 3, 10)[0]
    for frame in range(3):  # a gradient is gathered for the next update
        step(first, frame)
    second.load({key: value.clone(memory_format=torch.contiguous_format) for key, value in first.state().items()})
    second.counters = first.counters
    for frame in range(3, 6):
        step(first, frame)
        step(second, frame)
    own = first.state()
    assert all(torch.equal(own[key], value) for key, value in second.state().items())


def step(stage: Stage, frame: int) -> None:
    torch.manual_seed(frame)
    packet = Packet(stage.config.frame_shape, channels_last=True)
    packet.set_header(frame - 1, frame)
    packet.tensor.normal_()
    stage.forward(packet)
    stage.backward_from_loss(packet, None)
    stage.update()


def run(config: Config, ticks: int) -> None:
    def packet(shape: Sequence[int], dtype: torch.dtype) -> Packet:
        return Watched(shape, dtype, channels_last=True)

    stages = build_stages(config, 3, 10)
    reference, frame = Reference(stages, config.frame_shape, packet=packet), packet(config.frame_shape, torch.float32)
    for tick in range(ticks):
        frame.set_header(tick - 1, tick)
        frame.tensor.normal_()
        reference.tick(frame)
    assert stages[0].updater.updates
