"""A packet: the message of one edge and tick, header and tensor in one preallocated buffer.

    int64  tick | frame | last | clip of each row | label of each row | padding to 64 bytes | tensor

Clip ids are unique for each playback of a clip. A row of clip `NO_CLIP` holds no frame (in an evaluation, when a slot
has no clips left). The label is sent with its row, so the top stage needs no tick arithmetic to find it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_CLIP = -1
_TICK, _FRAME, _LAST, _ROWS_FROM = 0, 1, 2, 3
_ALIGN = 64  # bytes: torch's own alignment, so kernels choose the same code path for a packet's tensor


class Packet:
    """The message of one edge and tick.

    Attributes:
        buffer: uint8 [packet_bytes], the bytes to transfer, on `wire` (the host for gloo, the device for NCCL).
        tensor: the activation or gradient, one row per slot, on `compute`. A view of `buffer` if `wire` is the same.
        head: the header as an int64 array, on the host.
        clips, labels: int64 [rows], on the host.
        label_tensor: `labels` as a tensor.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        compute: torch.device | str = "cpu",
        wire: torch.device | str = "cpu",
        memory: Tensor | None = None,
    ) -> None:
        """Allocate a packet.

        Args:
            shape: of the tensor; the first dimension is rows.
            compute: device of the tensor.
            wire: device of the buffer.
            memory: uint8 [packet_bytes] to use as the buffer; by default it is allocated.
        """
        compute, wire = torch.device(compute), torch.device(wire)
        rows, head = shape[0], _head_bytes(shape[0])
        pinned = compute.type == "cuda" and wire.type == "cpu"
        size = packet_bytes(shape, dtype)
        self.buffer = torch.zeros(size, dtype=torch.uint8, device=wire, pin_memory=pinned) if memory is None else memory
        payload = self.buffer[head:].view(dtype).view(tuple(shape))
        # the header is read on the host at every tick, so a buffer on the device needs a host copy of it
        self._device_head = self.buffer[:head] if wire.type == "cuda" else None
        host = torch.zeros(head, dtype=torch.uint8, pin_memory=True) if wire.type == "cuda" else self.buffer[:head]
        self._host_head = host
        # staging: the tensor is on another device than the buffer
        self._staged = payload if compute != wire else None
        self.tensor = torch.zeros_like(payload, device=compute) if compute != wire else payload
        self.head: np.ndarray[Any, np.dtype[np.int64]] = host.view(torch.int64).numpy()
        self.clips = self.head[_ROWS_FROM : _ROWS_FROM + rows]
        self.labels = self.head[_ROWS_FROM + rows : _ROWS_FROM + 2 * rows]
        self.label_tensor = host.view(torch.int64)[_ROWS_FROM + rows : _ROWS_FROM + 2 * rows]

    @property
    def tick(self) -> int:
        """Tick at which the packet was computed."""
        return int(self.head[_TICK])

    @property
    def frame(self) -> int:
        """Number of the frame from which the activation, or the loss behind the gradient, was computed."""
        return int(self.head[_FRAME])

    @property
    def last(self) -> bool:
        """Whether this is the last packet (evaluation only: training ends at an agreed tick)."""
        return bool(self.head[_LAST])

    def set_header(self, tick: int, frame: int, last: bool = False) -> None:
        """Set the scalars of the header. Write clips and labels directly into their arrays."""
        self.head[_TICK], self.head[_FRAME], self.head[_LAST] = tick, frame, last

    def pack(self, tick: int, source: "Packet", tensor: Tensor) -> None:
        """Copy in `tensor`, computed at `tick` from `source`, and the header of `source`."""
        self.head[:] = source.head
        self.head[_TICK] = tick
        self.tensor.copy_(tensor.detach())  # without detach the packet would keep the graph of every tick alive

    def flush_to_buffer(self) -> None:
        """Copy tensor and header to `buffer` before a send (a no-op on the CPU)."""
        if self._device_head is not None:
            self._device_head.copy_(self._host_head, non_blocking=True)
        if self._staged is not None:
            self._staged.copy_(self.tensor)  # blocking: gloo reads it next

    def load_from_buffer(self) -> None:
        """Copy `buffer` to tensor and header after a receive (a no-op on the CPU)."""
        if self._device_head is not None:
            self._host_head.copy_(self._device_head)
        if self._staged is not None:
            self.tensor.copy_(self._staged, non_blocking=True)


def packet_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Size of a packet's buffer in bytes. The first dimension of `shape` is rows."""
    return _head_bytes(shape[0]) + torch.Size(shape).numel() * dtype.itemsize


def _head_bytes(rows: int) -> int:
    return -(-(_ROWS_FROM + 2 * rows) * 8 // _ALIGN) * _ALIGN
