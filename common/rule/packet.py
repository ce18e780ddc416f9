"""A packet: one edge's message of one tick, header and tensor in one buffer that is allocated once.

    int64  tick | frame | last | clip of each row | label of each row | padding to 64 bytes | tensor

Clip ids are unique per playing of a clip; a row of clip `NO_CLIP` holds no frame (evaluation, when a slot has run
out). The label rides with its row, so the top stage needs no clock arithmetic to find it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_CLIP = -1
_TICK, _FRAME, _LAST, _ROWS_FROM = 0, 1, 2, 3
_ALIGN = 64  # bytes: the alignment that torch gives its own tensors, so kernels take the same path on a packet's tensor


class Packet:
    """The message of one edge and tick.

    Attributes:
        buffer: uint8, what the wire carries. On `wire` (the host for gloo, the device for NCCL).
        tensor: the activation or gradient, one row a slot, on `compute`. On the CPU a view of `buffer`.
        clips, labels: int64 arrays of one entry a row, on the host.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        compute: torch.device | str = "cpu",
        wire: torch.device | str = "cpu",
        memory: Tensor | None = None,
    ) -> None:
        """`memory`: uint8 of `packet_bytes`, to be used for the buffer."""
        compute, wire = torch.device(compute), torch.device(wire)
        rows, head = shape[0], _head_bytes(shape[0])
        pinned = compute.type == "cuda" and wire.type == "cpu"
        size = packet_bytes(shape, dtype)
        self.buffer = torch.zeros(size, dtype=torch.uint8, device=wire, pin_memory=pinned) if memory is None else memory
        payload = self.buffer[head:].view(dtype).view(tuple(shape))
        # the header is read on the host at every tick; where the buffer is on the device it has a host copy
        self._device_head = self.buffer[:head] if wire.type == "cuda" else None
        host = torch.zeros(head, dtype=torch.uint8, pin_memory=True) if wire.type == "cuda" else self.buffer[:head]
        self._host_head = host
        # staging: the tensor is on the device, the wire wants it on the host
        self._staged = payload if compute != wire else None
        self.tensor = torch.zeros_like(payload, device=compute) if compute != wire else payload
        self.head: np.ndarray[Any, np.dtype[np.int64]] = host.view(torch.int64).numpy()
        self.clips = self.head[_ROWS_FROM : _ROWS_FROM + rows]
        self.labels = self.head[_ROWS_FROM + rows : _ROWS_FROM + 2 * rows]
        self.label_tensor = host.view(torch.int64)[_ROWS_FROM + rows : _ROWS_FROM + 2 * rows]

    @property
    def tick(self) -> int:
        """Tick at which the packet was made."""
        return int(self.head[_TICK])

    @property
    def frame(self) -> int:
        """Number of the frame that the rows hold, or whose loss the gradient belongs to."""
        return int(self.head[_FRAME])

    @property
    def last(self) -> bool:
        """Nothing follows (evaluation only: training ends at an agreed tick)."""
        return bool(self.head[_LAST])

    def label(self, tick: int, frame: int, last: bool = False) -> None:
        """Write the scalars of the header; clips and labels are arrays to write into."""
        self.head[_TICK], self.head[_FRAME], self.head[_LAST] = tick, frame, last

    def pack(self, tick: int, source: "Packet", tensor: Tensor) -> None:
        """Take `tensor`, computed at `tick` from `source`, whose rows it belongs to."""
        self.head[:] = source.head
        self.head[_TICK] = tick
        self.tensor.copy_(tensor.detach())  # undetached, the packet would hold the graph of every tick

    def depart(self) -> None:
        """Make `buffer` hold what `tensor` and the header say (nothing to do on the CPU)."""
        if self._device_head is not None:
            self._device_head.copy_(self._host_head, non_blocking=True)
        if self._staged is not None:
            self._staged.copy_(self.tensor)  # waits for it: gloo reads it next; and so is all that `arrive` began over

    def arrive(self) -> None:
        """Make `tensor` and the header hold what `buffer` says (nothing to do on the CPU)."""
        if self._device_head is not None:
            self._host_head.copy_(self._device_head)
        if self._staged is not None:
            self.tensor.copy_(self._staged, non_blocking=True)


def packet_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Of a packet's buffer."""
    return _head_bytes(shape[0]) + torch.Size(shape).numel() * dtype.itemsize


def _head_bytes(rows: int) -> int:
    return -(-(_ROWS_FROM + 2 * rows) * 8 // _ALIGN) * _ALIGN
