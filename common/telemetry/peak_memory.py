"""The most memory that a stage needed: device memory on CUDA; on the CPU the process's growth since `forget_peak`."""

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: torch.device) -> int:
    """Begin to measure. Returns the bytes held now, to be handed to `peak`."""
    if device.type == "cuda":
        torch.cuda.init()  # which the next call does not do by itself
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    gc.collect()
    with suppress(OSError, AttributeError):  # what was freed is given back first, or it would hide what comes (glibc)
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):  # a container may forbid it: then the peak is that of the whole process
        _FORGET.write_text("5")
    return _read("VmRSS")


def peak(device: torch.device, before: int) -> int:
    """Bytes: the most that was held since, beyond what was held before."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return max(0, _read("VmHWM") - before)


def _read(field: str) -> int:
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
