"""CUDA's memory and events that another process of the host can open (CUDA IPC)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from stage_worker.edges.device_memory import Event

_STORAGE_FROM = 6  # in the arguments of rebuild_cuda_tensor: before it are class, sizes and dtype, which we know
_DEVICE = 0  # of what follows


class CudaIpc:
    """Shares what is on `device`, and opens there what others share."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def describe_memory(self, memory: Tensor) -> Any:
        """What torch.multiprocessing sends of a tensor, without its class, sizes and dtype."""
        _, arguments = reduce_tensor(memory)
        return list(arguments[_STORAGE_FROM:])

    def open_memory(self, description: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Another process's tensor, contiguous. Raises RuntimeError if it cannot be opened.

        It is addressed through this process's device: the GPU that it is on need not be visible here.
        """
        size = torch.Size(shape)
        stride = torch.empty(size, device="meta").stride()
        storage = list(description)
        storage[_DEVICE] = self._device.index
        return rebuild_cuda_tensor(Tensor, size, stride, 0, torch.UntypedStorage, dtype, *storage)

    def create_event(self) -> tuple[Event, Any]:
        """An event of this process, and its handle."""
        event = torch.cuda.Event(interprocess=True)
        return event, event.ipc_handle()

    def open_event(self, description: Any) -> Event:
        """Another process's event. Raises RuntimeError if it cannot be opened."""
        return torch.cuda.Event.from_ipc_handle(self._device, description)
