"""How many processes the stages of a run on this machine are spread over (stages_per_process)."""

import os

from common.config.settings import Config
from common.processes.interpreter import quiet_torch
from common.processes.layout import Layout, stages_each, workers_for


def layout_of(config: Config) -> Layout:
    """The processes that the settings ask for."""
    return Layout(config.stages, config.replicas, stage_processes(config), config.data.readers)


def stage_processes(config: Config) -> int:
    """Number of processes that hold the stages of a replica.

    By default each stage has its own; with fewer GPUs than stages, the stages of a GPU share one.
    """
    if config.stages_per_process != "auto":
        return workers_for(config.stages, config.stages_per_process)
    gpus = count_gpus() if config.device != "cpu" and not config.exact_gradients else 0
    if not gpus or config.total_stages <= gpus:
        return config.stages
    each = stages_each(config.stages, max(1, gpus // config.replicas))
    return workers_for(config.stages, each)


def count_gpus() -> int:
    """Number of CUDA devices that can be used. Asks in a fork: a process that has started CUDA cannot be forked."""
    quiet_torch()
    import torch

    if torch.version.cuda is None:
        return 0
    child = os.fork()
    if child == 0:
        os._exit(min(torch.cuda.device_count(), 255) if torch.cuda.is_available() else 0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 0
