"""An edge between two stages of one host that compute on GPUs: tensors in GPU memory that both map (CUDA IPC).

Headers and credits are those of shared_memory.py. No host waits for a GPU; the GPUs' streams wait for each other:

    sender    room(k)    waits for a credit if no slot is free; its stream waits until the slot was read
              start(k)   records that the slot is written, then sends a credit
    receiver  wait(k+d)  waits for a credit; its stream waits until the slot is written
              post(k+2d) records that the previous slot was read, then sends a credit

An event is recorded before its credit is sent, so whoever has the credit waits for that recording. Between stages that
share a GPU nothing is copied; between two GPUs the receiver copies the tensor to its own, by the copy engine.
"""

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from common.errors import PeerError, first_line
from common.messages.encoding import decode, encode
from common.rule.memory_format import from_memory, sizes_in_memory
from common.rule.packet import Packet, header_bytes
from common.shared_memory.fd_passing import FdConnection
from common.shared_memory.memfd import mapped, shared_memory
from stage_worker.edges.links import EdgeEnd
from stage_worker.edges.shared_memory import SharedIncoming, SharedOutgoing, by_receiver, slots_of

_LARGEST_DESCRIPTION = 1 << 16  # bytes
_ALIGNMENT = 512  # bytes: that of torch's allocator on GPUs


class Event(Protocol):
    """An event that two processes share. Both methods concern the current stream, and return at once."""

    def record(self) -> None:
        """Mark what the stream has been given so far."""

    def wait(self) -> None:
        """Let the stream wait for what was marked last; for nothing if nothing was."""


class Ipc(Protocol):
    """Memory and events of a GPU that another process of the host can use. Descriptions are msgpack values."""

    def describe_memory(self, memory: Tensor) -> Any:
        """What another process needs to open `memory`, which must outlive its use."""

    def open_memory(self, description: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Another process's memory. Raises RuntimeError if it cannot be opened."""

    def create_event(self) -> tuple[Event, Any]:
        """An event, and what another process needs to open it."""

    def open_event(self, description: Any) -> Event:
        """Another process's event. Raises RuntimeError if it cannot be opened."""


class DeviceOutgoing(SharedOutgoing):
    """The sending end. `complete` must be called before the first packet."""

    def __init__(
        self,
        packets: Sequence[Packet],
        connection: socket.socket,
        end: EdgeEnd,
        written: Sequence[Event],
    ) -> None:
        super().__init__(packets, connection, end)
        self._written = written
        self._read: Sequence[Event] = ()

    def complete(self, connection: FdConnection, name: str, ipc: Ipc) -> str | None:
        """Take the neighbour's answer to the offer. Returns why the edge is not possible, or None. Raises PeerError."""
        answer = _receive_description(connection, _answer(name))
        if "error" in answer:
            return str(answer["error"])
        try:
            self._read = [ipc.open_event(event) for event in answer["read"]]
        except RuntimeError as error:
            raise PeerError(
                f"stage {self._stage} cannot open the CUDA events of stage {self._neighbour} ({error}): "
                'set network.transport = "gloo"'
            ) from error
        return None

    def room(self, tick: int) -> None:
        """Wait until this tick's packet may be overwritten, on the host or on the stream."""
        super().room(tick)
        self._read[tick % len(self._read)].wait()

    def start(self, tick: int) -> None:
        """Tell the neighbour that this tick's packet is written, as soon as the stream gets there."""
        self._written[tick % len(self._written)].record()
        super().start(tick)


class DeviceIncoming(SharedIncoming):
    """The receiving end."""

    def __init__(
        self,
        packets: Sequence[Packet],
        connection: socket.socket,
        end: EdgeEnd,
        events: tuple[Sequence[Event], Sequence[Event]],
        sources: Sequence[Tensor] | None,
    ) -> None:
        """`events`: for each packet, that it is written, and that it was read. `sources`: tensors to copy from."""
        super().__init__(packets, connection, end)
        self._written, self._read = events
        self._sources = sources

    def post(self, tick: int) -> None:
        """Tell the neighbour that the packet read before may be overwritten, as soon as the stream gets there."""
        self._read[(tick - self._ticks - 1) % len(self._read)].record()
        super().post(tick)

    def wait(self, tick: int) -> None:
        """Wait for the header of this tick's packet; the stream waits for its tensor."""
        super().wait(tick)
        slot = tick % len(self.packets)
        self._written[slot].wait()
        if self._sources is not None:
            self.packets[slot].dense.copy_(self._sources[slot], non_blocking=True)


def offer_edge(connection: FdConnection, end: EdgeEnd, device: torch.device, ipc: Ipc) -> DeviceOutgoing | str:
    """Create an edge to a neighbour, and send it what it needs to open it.

    Returns:
        The edge, to be completed; or why its memory cannot be shared, which the neighbour is told too.

    Raises:
        PeerError: the neighbour is gone.
    """
    memory = torch.zeros(_shape(end), dtype=end.spec[1], device=device)
    try:
        events = [ipc.create_event() for _ in memory]
        described = ipc.describe_memory(memory)
    except RuntimeError as error:
        reason = first_line(error)
        _send_description(connection, _description(end.name), {"error": reason})
        return reason
    headers = shared_memory(f"sideways-{end.name}", len(memory) * _pitch(end))
    try:
        offer = {"memory": described, "written": [event for _, event in events]}
        _send_description(connection, _description(end.name), offer)
        ours, theirs = socket.socketpair()
        with theirs:
            connection.send_files(end.name, [headers, theirs.fileno()])
        return DeviceOutgoing(_packets(headers, end, _slots(memory, end)), ours, end, [event for event, _ in events])
    finally:
        os.close(headers)


def accept_edge(
    connection: FdConnection, end: EdgeEnd, ipc: Ipc, copy_to: torch.device | None = None
) -> DeviceIncoming | str:
    """Open the edge that a neighbour offered, and answer it.

    Args:
        copy_to: this stage's device if the neighbour is on another one: its tensors are copied there.

    Returns:
        The edge; or why its memory cannot be opened here, which the neighbour is told too.

    Raises:
        PeerError: the neighbour does not answer.
    """
    shape, dtype = _shape(end), end.spec[1]
    offer = _receive_description(connection, _description(end.name))
    if "error" in offer:
        return str(offer["error"])
    headers, theirs = connection.receive_files(end.name, 2)
    credits_socket = socket.socket(fileno=theirs)
    try:
        try:
            slots = _slots(ipc.open_memory(offer["memory"], shape, dtype), end)
            written = [ipc.open_event(event) for event in offer["written"]]
            read = [ipc.create_event() for _ in slots]
        except RuntimeError as error:
            reason = first_line(error)
            _send_description(connection, _answer(end.name), {"error": reason})
            credits_socket.close()
            return reason
        _send_description(connection, _answer(end.name), {"read": [event for _, event in read]})
        own = slots if copy_to is None else _slots(torch.zeros(shape, dtype=dtype, device=copy_to), end)
        packets = by_receiver(_packets(headers, end, own), end.ticks)
        events = by_receiver(written, end.ticks), by_receiver([event for event, _ in read], end.ticks)
        sources = None if copy_to is None else by_receiver(slots, end.ticks)
        return DeviceIncoming(packets, credits_socket, end, events, sources)
    finally:
        os.close(headers)


def _shape(end: EdgeEnd) -> tuple[int, int]:
    """Of the memory of all slots: their number, and the elements from one to the next.

    Every slot is aligned as a tensor of its own would be: kernels, and so the last bits, are chosen by alignment.
    """
    shape, dtype = end.spec
    aligned = _ALIGNMENT // dtype.itemsize
    return slots_of(end.ticks), -(-shape.numel() // aligned) * aligned


def _slots(memory: Tensor, end: EdgeEnd) -> list[Tensor]:
    """The slots' tensors, as they lie in memory."""
    sizes = sizes_in_memory(end.spec[0], end.channels_last)
    return [slot[: end.spec[0].numel()].view(sizes) for slot in memory]


def _pitch(end: EdgeEnd) -> int:
    """Bytes from one header to the next, in whole pages."""
    return -(-header_bytes(end.spec[0][0], end.labels) // mmap.PAGESIZE) * mmap.PAGESIZE


def _packets(headers: int, end: EdgeEnd, tensors: list[Tensor]) -> list[Packet]:
    """Packets whose headers are in a shared file, and whose tensors are these."""
    shape, dtype = end.spec
    pitch, size = _pitch(end), header_bytes(shape[0], end.labels)
    memory = torch.frombuffer(mapped(headers, len(tensors) * pitch), dtype=torch.uint8)
    form = end.labels, end.channels_last
    return [
        Packet(shape, dtype, tensor.device, part[:size], from_memory(tensor, end.channels_last), *form)
        for part, tensor in zip(memory.split(pitch), tensors, strict=True)
    ]


def _description(name: str) -> str:
    return f"{name}-offer"


def _answer(name: str) -> str:
    return f"{name}-answer"


def _send_description(connection: FdConnection, name: str, description: dict[str, Any]) -> None:
    """Send a map in a file in memory."""
    data = encode(description)
    file = shared_memory(f"sideways-{name}", len(data))
    try:
        os.write(file, data)
        connection.send_files(name, [file])
    finally:
        os.close(file)


def _receive_description(connection: FdConnection, name: str) -> dict[str, Any]:
    """Receive a map. Raises PeerError."""
    (file,) = connection.receive_files(name, 1)
    try:
        return decode(os.pread(file, _LARGEST_DESCRIPTION, 0))
    finally:
        os.close(file)
