"""Times passes as they will run: on their device, with the run's order of maps in memory."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.rule.memory_format import arrange, arranged, with_memory_format


def as_it_runs(config: Config, model: nn.Sequential, device: torch.device, on_gpus: bool) -> Tensor:
    """Bring a disposable model to the device and into the run's memory format. Returns random frames for it, likewise.

    `on_gpus`: whether all stages compute on GPUs.
    """
    last = with_memory_format(config, model.to(device), on_gpus).channels_last
    if last:
        arrange(model)
    return arranged(torch.rand(config.frame_shape, device=device), last)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes, on a GPU between two of its events."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return _seconds_on_gpu(work)
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _seconds_on_gpu(work: Callable[[], object]) -> float:
    """On the current device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3
