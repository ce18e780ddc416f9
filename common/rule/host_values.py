"""Small arrays of the host that a GPU needs in a tick, such as labels, sent without a wait."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_BUFFERS = 4  # the host is at most 2 ticks ahead of the GPU (stage_worker/device_pace.py), and sends one in a tick


class HostValues:
    """Sends arrays of one shape and dtype to the device of a tensor; on the CPU nothing is copied.

    The host may overwrite an array while the GPU has not yet read it, so what is sent is copied to pinned memory first.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._next = 0

    def on(self, device: torch.device, values: NDArray[Any]) -> Tensor:
        """The values on a device. On the CPU, a view of them."""
        source = torch.from_numpy(values)
        if device.type == "cpu":
            return source
        if not self._buffers or self._buffers[0].shape != source.shape:
            pinned = device.type == "cuda"
            self._buffers = [torch.empty_like(source, pin_memory=pinned) for _ in range(_BUFFERS)]
        self._next = (self._next + 1) % _BUFFERS
        buffer = self._buffers[self._next]
        buffer.copy_(source)
        return buffer.to(device, non_blocking=True)
