"""An edge between two stages of one host: packets in shared memory, and credits in both directions.

    sender    room(k)    waits for a credit if no slot is free; then packs into slot k mod n
              start(k)   sends a credit: the packet is ready
    receiver  wait(k+d)  waits for a credit, and reads the packet in place
              post(k+2d) sends a credit: the previous slot is free

d are the ticks of the edge, and n = 2d + 2 its slots: d packets in flight, two that the receiver holds, and as many as
the sender may be ahead. Nothing is copied between the two ends.
"""

import mmap
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import torch

from common.rule.packet import Packet, packet_bytes
from common.shared_memory.credits import CreditSocket
from common.shared_memory.fd_passing import FdConnection
from common.shared_memory.memfd import mapped, shared_memory
from stage_worker.edges.links import EdgeEnd
from stage_worker.edges.peer_errors import broken, stuck

Item = TypeVar("Item")


def slots_of(ticks: int) -> int:
    """Number of slots of an edge of so many ticks."""
    return 2 * ticks + 2


class _End:
    """One end of an edge: its packets and its credit connection."""

    def __init__(self, packets: Sequence[Packet], connection: socket.socket, end: EdgeEnd) -> None:
        assert len(packets) == slots_of(end.ticks)
        self.packets, self._ticks = packets, end.ticks
        self._room = end.ticks + 1  # packets that may be written before the next credit
        self._credits = CreditSocket(connection, end.deadline)
        self._stage, self._neighbour, self._deadline = end.stage, end.neighbour, end.deadline

    def close(self) -> None:
        """Close the connection; the memory is freed with its last user."""
        self._credits.close()

    def _send_credit(self, tick: int, doing: str) -> None:
        try:
            self._credits.send()
        except OSError as error:
            raise broken(self._place(tick, doing), self._neighbour, error) from error

    def _receive_credits(self, tick: int, doing: str) -> int:
        """Wait for at least one credit. Returns the number received."""
        try:
            return self._credits.receive()
        except BlockingIOError as error:
            raise stuck(self._place(tick, doing), self._neighbour, self._deadline) from error
        except OSError as error:
            raise broken(self._place(tick, doing), self._neighbour, error) from error

    def _place(self, tick: int, doing: str) -> str:
        return f"stage {self._stage}, tick {tick}, {doing}"


class SharedOutgoing(_End):
    """The sending end."""

    def room(self, tick: int) -> None:
        """Wait until this tick's packet may be overwritten."""
        while not self._room:
            self._room += self._receive_credits(tick, "sending to")

    def start(self, tick: int) -> None:
        """Tell the neighbour that this tick's packet is written."""
        self._room -= 1
        self._send_credit(tick, "sending to")

    def finish(self, tick: int) -> None:
        """Do nothing: a written packet needs no transfer."""


class SharedIncoming(_End):
    """The receiving end."""

    _ready = 0  # packets that are written but not yet waited for
    _ahead = 0  # credits sent, less packets waited for
    _unspent = 0  # credits of an earlier phase that stand for the next ones

    def begin(self, first: int) -> None:
        """Start a phase. Where one ends, the neighbour has been told of packets that it did not write any more."""
        self._unspent = max(0, self._ahead)

    def packet(self, tick: int) -> Packet:
        """The packet for the message for `tick`."""
        return self.packets[tick % len(self.packets)]

    def post(self, tick: int) -> None:
        """Tell the neighbour that the packet read before this one may be overwritten."""
        if self._unspent:
            self._unspent -= 1
            return
        self._ahead += 1
        self._send_credit(tick, "receiving from")

    def wait(self, tick: int) -> None:
        """Wait for the packet for this tick."""
        while not self._ready:
            self._ready += self._receive_credits(tick, "receiving from")
        self._ready -= 1
        self._ahead -= 1


def offer_edge(connection: FdConnection, end: EdgeEnd) -> SharedOutgoing:
    """Create an edge to a neighbour, and send it the memory and the connection. Raises PeerError."""
    file = shared_memory(f"sideways-{end.name}", slots_of(end.ticks) * _pitch(end))
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            connection.send_files(end.name, [file, theirs.fileno()])
        return SharedOutgoing(_packets(file, end), ours, end)
    finally:
        os.close(file)


def accept_edge(connection: FdConnection, end: EdgeEnd) -> SharedIncoming:
    """Receive the edge that a neighbour created with `offer_edge`. Raises PeerError."""
    file, theirs = connection.receive_files(end.name, 2)
    try:
        packets = _packets(file, end)
    finally:
        os.close(file)
    return SharedIncoming(by_receiver(packets, end.ticks), socket.socket(fileno=theirs), end)


def by_receiver(items: Sequence[Item], ticks: int) -> list[Item]:
    """What the sender has for each of its ticks, by the receiver's: what is sent at tick k is for tick k + `ticks`."""
    return [*items[-ticks:], *items[:-ticks]]


def _pitch(end: EdgeEnd) -> int:
    """Bytes from one slot to the next, in whole pages."""
    return -(-packet_bytes(*end.spec, end.labels) // mmap.PAGESIZE) * mmap.PAGESIZE


def _packets(file: int, end: EdgeEnd) -> list[Packet]:
    pitch, size = _pitch(end), packet_bytes(*end.spec, end.labels)
    memory = torch.frombuffer(mapped(file, slots_of(end.ticks) * pitch), dtype=torch.uint8)
    make = partial(Packet, *end.spec, labels=end.labels, channels_last=end.channels_last)
    return [make(memory=slot[:size]) for slot in memory.split(pitch)]
