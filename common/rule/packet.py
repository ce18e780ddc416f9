"""A packet: the message of one edge and tick, header and tensor, in preallocated memory.

    int64  tick | frame | last | clip of each row | label of each row | padding to 64 bytes | tensor

A label has the form that the run's task gives it: a class, int64, or several float32 numbers.

Clip ids are unique for each playback of a clip. A row of clip `NO_CLIP` holds no frame (in an evaluation, when a slot
has no clips left). The label is sent with its row, so the top stage needs no tick arithmetic to find it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.rule.label_form import ONE_CLASS, LabelForm, Labels
from common.rule.memory_format import as_in_memory, from_memory, sizes_in_memory

NO_CLIP = -1
_TICK, _FRAME, _LAST, _ROWS_FROM = 0, 1, 2, 3
_ALIGN = 64  # bytes: torch's own alignment, so kernels choose the same code path for a packet's tensor


class Packet:
    """The message of one edge and tick: a header on the host, and a tensor on the device that computes.

    The header never crosses to a GPU and back: clips, labels and frame numbers are read on the host at every tick.

    Attributes:
        header: uint8 [header_bytes], on the host.
        tensor: the activation or gradient, one row per slot.
        dense: a contiguous view of it, with the dimensions in the order that they have in memory.
        buffer: uint8 [packet_bytes], header and tensor in one piece of host memory; None if the tensor is elsewhere.
        head: the header as an int64 array.
        clips: int64 [rows], a part of the header.
        labels: another, int64 [rows] or float32 [rows, width].
        label_tensor: `labels` as a tensor.
        nbytes: size of the message.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        memory: Tensor | None = None,
        tensor: Tensor | None = None,
        labels: LabelForm = ONE_CLASS,
        channels_last: bool = False,
    ) -> None:
        """Create a packet.

        Args:
            shape: of the tensor; the first dimension is rows.
            device: of the tensor.
            memory: host memory to use, uint8: [packet_bytes] if the tensor is in it too, else [header_bytes].
            tensor: the tensor to use, if it is not in `memory`.
            labels: form of the rows' labels.
            channels_last: the order of maps in memory, and in the message.
        """
        device, rows = torch.device(device), shape[0]
        in_one_piece = tensor is None and device == torch.device("cpu")
        start = header_bytes(rows, labels)
        size = packet_bytes(shape, dtype, labels) if in_one_piece else start
        pinned = device.type == "cuda"
        memory = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) if memory is None else memory
        self.header = memory[:start]
        self.buffer = memory if in_one_piece else None
        if in_one_piece:
            tensor = payload_of(memory, shape, dtype, labels, channels_last)
        if tensor is None:
            sizes = sizes_in_memory(shape, channels_last)
            tensor = from_memory(torch.zeros(sizes, dtype=dtype, device=device), channels_last)
        self.tensor, self.dense = tensor, as_in_memory(tensor, channels_last)
        self._payload = tensor  # what is sent
        numbers = self.header.view(torch.int64)
        self.head: np.ndarray[Any, np.dtype[np.int64]] = numbers.numpy()
        self.clips = self.head[_ROWS_FROM : _ROWS_FROM + rows]
        first = _ROWS_FROM + rows
        self.label_tensor = _labels_in(numbers[first : first + labels.words(rows)], rows, labels)
        self.labels: Labels = self.label_tensor.numpy()
        self.nbytes = packet_bytes(shape, dtype, labels)
        self._form = labels

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
        self.pack_header(tick, source)
        self.tensor.copy_(tensor.detach())  # without detach the packet would keep the graph of every tick alive

    def pack_header(self, tick: int, source: "Packet") -> None:
        """Copy in the header of `source`, with another tick."""
        self.head[:] = source.head
        self.head[_TICK] = tick

    def flush(self) -> None:
        """Make the packet ready to be sent. There is nothing to do unless it is a StagedPacket."""

    def load(self) -> None:
        """Take what was received. There is nothing to do unless it is a StagedPacket."""

    def to_bytes(self) -> Tensor:
        """Header and contiguous tensor, uint8 [packet_bytes] on the host, whatever the order of maps."""
        if self.buffer is not None and self.dense is self.tensor:
            return self.buffer
        payload = self._payload.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return torch.cat([self.header, payload])

    def from_bytes(self, message: Tensor) -> None:
        """Set what `to_bytes` gave, as if it had been received."""
        if self.buffer is not None and self.dense is self.tensor:
            self.buffer.copy_(message)
            return
        self.header.copy_(message[: self.header.nbytes])
        self._payload.copy_(payload_of(message, self.tensor.shape, self.tensor.dtype, self._form))


class StagedPacket(Packet):
    """A packet whose tensor is on a GPU and which is sent from host memory: `buffer`, pinned."""

    buffer: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        labels: LabelForm = ONE_CLASS,
        channels_last: bool = False,
    ) -> None:
        size = packet_bytes(shape, dtype, labels)
        buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        header = buffer[: header_bytes(shape[0], labels)]
        super().__init__(shape, dtype, device, header, labels=labels, channels_last=channels_last)
        self.buffer, self._payload = buffer, payload_of(buffer, shape, dtype, labels, channels_last)

    def flush(self) -> None:
        """Copy the tensor to the host, and wait for the copy: the transfer reads it next."""
        self._payload.copy_(self.tensor)

    def load(self) -> None:
        """Copy the received tensor to the device, and wait for the copy: the next receive may overwrite the buffer."""
        self.tensor.copy_(self._payload)


def _labels_in(words: Tensor, rows: int, form: LabelForm) -> Tensor:
    if form.width is None:
        return words
    return words.view(torch.float32)[: rows * form.width].view(rows, form.width)


def packet_bytes(shape: Sequence[int], dtype: torch.dtype, labels: LabelForm = ONE_CLASS) -> int:
    """Size of a packet in bytes. The first dimension of `shape` is rows."""
    return header_bytes(shape[0], labels) + torch.Size(shape).numel() * dtype.itemsize


def header_bytes(rows: int, labels: LabelForm = ONE_CLASS) -> int:
    """Size of a packet's header in bytes."""
    return -(-(_ROWS_FROM + rows + labels.words(rows)) * 8 // _ALIGN) * _ALIGN


def payload_of(
    message: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    labels: LabelForm = ONE_CLASS,
    channels_last: bool = False,
) -> Tensor:
    """The tensor in a message, as a view of it. `message` is uint8 [packet_bytes]."""
    memory = message[header_bytes(shape[0], labels) :].view(dtype)
    return from_memory(memory.view(sizes_in_memory(shape, channels_last)), channels_last)
