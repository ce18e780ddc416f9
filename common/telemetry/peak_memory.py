"""Peak memory of a stage: device memory on CUDA; on the CPU the growth of the process since `reset_peak`."""

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: torch.device) -> int:
    """Reset the peak. Returns the baseline in bytes, to be passed to `peak`; 0 on CUDA."""
    if device.type == "cuda":
        torch.cuda.init()  # the next call does not initialise CUDA itself
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    gc.collect()
    with suppress(OSError, AttributeError):  # release freed memory first, or it would hide later growth (glibc)
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # a container may forbid it: then the peak is over the whole life of the process
        _RESET.write_text("5")
    return _read("VmRSS")


def peak(device: torch.device, before: int) -> int:
    """Peak memory since `reset_peak` in bytes, above its result `before`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(0, _read("VmHWM") - before)


def _read(field: str) -> int:
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
