"""What is timed is what runs."""

import time
from pathlib import Path

import torch
from torch import nn

from common.partition.stopwatch import as_it_runs, seconds
from tests.support.settings import config_of


def test_seconds_are_those_of_the_work() -> None:
    assert 0.02 <= seconds(lambda: time.sleep(0.02), torch.device("cpu")) < 1


def test_model_and_frames_get_the_runs_memory_format(tmp_path: Path) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        name = "channels_last" if memory_format == torch.channels_last else "auto"
        convolution = nn.Conv2d(3, 4, 3)
        frames = as_it_runs(
            config_of(tmp_path, memory_format=name), nn.Sequential(convolution), torch.device("cpu"), False
        )
        assert frames.shape == (3, 3, 16, 16)
        assert frames.is_contiguous(memory_format=memory_format)
        assert convolution.weight.is_contiguous(memory_format=memory_format)
