"""The device that a stage computes on, and how torch computes there."""

import os
import warnings
from pathlib import Path

import torch

from common.config.settings import Config, share_of_threads
from common.errors import ConfigError
from common.processes.membership import Membership

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def use_device(config: Config, me: Membership) -> torch.device:
    """Set up torch's threads and arithmetic, and return the stage's device. Raises ConfigError if it lacks CUDA."""
    torch.set_num_threads(share_of_threads(config, me.local_processes))
    device = _device(config, me)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and streams belong to the current one
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = config.tf32
        # it times the kernels, so two runs may choose differently, and a run and its reference
        torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
    torch.use_deterministic_algorithms(config.deterministic and device.type == "cuda", warn_only=True)
    return device


def _device(config: Config, me: Membership) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", gpu_index(me.local_process, me.local_processes, torch.cuda.device_count()))
    if config.device == "cuda":
        raise ConfigError(
            f'device = "cuda", but {unusable_gpu() or "this host has no CUDA device"}: use "auto" or "cpu"'
        )
    if (problem := unusable_gpu()) and me.local_process == 0:
        warnings.warn(f'{problem}: training on the CPU. Set device = "cpu" if that is intended', stacklevel=2)
    return torch.device("cpu")


def gpu_index(process: int, processes: int, gpus: int) -> int:
    """Index of a worker's GPU. With fewer GPUs than workers neighbours share one, as their edge then costs no copy.

    `process`: its number among the `processes` of this host.
    """
    return process if processes <= gpus else process * gpus // processes


def unusable_gpu() -> str | None:
    """Why torch cannot use the GPU that this host has; None if it has none."""
    if not _NVIDIA_DRIVER.exists():
        return None
    if torch.version.cuda is None:
        return "this host has an NVIDIA GPU, but the installed torch is built for the CPU"
    return (
        f"this host has an NVIDIA GPU, but torch {torch.__version__} cannot use it: its driver may be too old for "
        f"CUDA {torch.version.cuda}"
    )
