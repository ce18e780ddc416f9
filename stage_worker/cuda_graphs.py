"""CUDA graphs of a stage's passes, where the settings ask for them."""

import warnings
from contextlib import suppress

import torch
from torch import nn

from common.config.settings import Config
from common.errors import ConfigError
from common.rule.graphs import Recorder, Work, graph_wanted, obstacle


class CudaGraphs:
    """Records on a stream of its own. The replays draw random numbers from a generator of their own."""

    def __init__(self, device: torch.device) -> None:
        """`device`: the current one."""
        self._default = torch.cuda.default_generators[device.index]
        self._own = torch.Generator(device)
        self._stream = torch.cuda.Stream(device)
        self.renew()

    def renew(self) -> None:
        """Take another pool of memory: torch refuses one whose graphs are gone."""
        self._pool = torch.cuda.graph_pool_handle()

    def seed(self, seed: int) -> None:
        """Set the generator of the replays: a replay begins with what is set on the host then."""
        self._own.manual_seed(seed)

    def record(self, work: Work) -> Work:
        """Capture a graph. Other threads may go on using the GPU."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        graph.register_generator_state(self._own)
        before = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(self._own.graphsafe_get_state())  # dropout draws from the default one
        try:
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            with suppress(Exception):  # else the allocator would go on as if a capture were under way
                torch._C._cuda_endAllocateToPool(self._default.device.index, self._pool)
            raise
        finally:
            torch.cuda.set_stream(here)  # a capture that fails leaves its own as the current one
            self._default.graphsafe_set_state(before)
        return graph.replay


def recorder_of(config: Config, blocks: nn.Module, device: torch.device, stage: int, replicas: int) -> Recorder | None:
    """The recorder of a stage; None if its ticks are not to be replayed.

    Raises:
        ConfigError: graph = true, but that is not possible.
    """
    if config.graph is False:
        return None
    reason = obstacle(config, blocks, replicas) if device.type == "cuda" else 'device = "cpu"'
    if reason and config.graph is True:
        raise ConfigError(f'graph = true cannot be with {reason}: change that, or set graph to "auto" or false')
    if reason and device.type == "cuda":
        warnings.warn(f"stage {stage}: no graphs with {reason}: its ticks run without", stacklevel=2)
    return None if reason or not graph_wanted(config, blocks) else CudaGraphs(device)
