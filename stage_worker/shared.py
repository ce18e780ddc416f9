"""An edge between two stages of one host: packets in memory that both see, and a byte each way to say what is there.

    sender    room(k)    takes a byte off the socket, if it has no room left; packs into slot k mod SLOTS
              start(k)   one byte: there it is
    receiver  wait(k+1)  takes a byte off the socket; the packet is read where it lies
              post(k+2)  one byte: the slot before is free

Nothing is copied between the two ends. Only they hold the sockets, so the death of one is the end of the other's
stream, at once; one that is stuck is found by the kernel's own time limit on a receive.
"""

import mmap
import os
import socket
from collections.abc import Sequence

import torch
from torch import Tensor

from common.lines import Line, limit_waits, mapped, shared_memory
from common.packet import Packet, packet_bytes
from stage_worker.agree import Form
from stage_worker.failure import broken, stuck

SLOTS = 4  # as many packets as two ends with two each
_HEADROOM = SLOTS - 2  # of which the receiver has two: the one that it reads, and the next
_MANY = 64  # bytes taken at once


class _End:
    """One end of an edge: its socket, and what is known of the other end."""

    def __init__(
        self, packets: Sequence[Packet], connection: socket.socket, stage: int, neighbour: int, deadline: float
    ) -> None:
        """`deadline` in seconds, for each wait."""
        self.packets = packets
        self._connection, self._stage, self._neighbour = connection, stage, neighbour
        self._bytes = bytearray(_MANY)
        self._deadline = deadline
        limit_waits(connection, deadline)

    def close(self) -> None:
        """Say no more; the memory goes with its last user."""
        self._connection.close()

    def _tell(self, tick: int, doing: str) -> None:
        try:
            self._connection.send(b"\0")
        except OSError as error:
            raise broken(self._place(tick, doing), self._neighbour, error) from error

    def _hear(self, tick: int, doing: str) -> int:
        """Wait for at least one byte. Returns how many came."""
        try:
            heard = self._connection.recv_into(self._bytes)
        except BlockingIOError as error:
            raise stuck(self._place(tick, doing), self._neighbour, self._deadline) from error
        except OSError as error:
            raise broken(self._place(tick, doing), self._neighbour, error) from error
        if not heard:
            raise broken(self._place(tick, doing), self._neighbour, "closed by the other side")
        return heard

    def _place(self, tick: int, doing: str) -> str:
        return f"stage {self._stage}, tick {tick}, {doing}"


class SharedOut(_End):
    """The sending end."""

    _room = _HEADROOM  # packets that may be written before the neighbour says more

    def room(self, tick: int) -> None:
        """Wait until this tick's packet may be overwritten."""
        while not self._room:
            self._room += self._hear(tick, "sending to")

    def start(self, tick: int) -> None:
        """This tick's packet is written."""
        self._room -= 1
        self._tell(tick, "sending to")

    def finish(self, tick: int) -> None:
        """What is written is there already."""


class SharedIn(_End):
    """The receiving end."""

    _there = 0  # packets that are written and not yet waited for

    def post(self, tick: int) -> None:
        """The packet of the tick before the last may be overwritten."""
        self._tell(tick, "receiving from")

    def wait(self, tick: int) -> None:
        """Wait for the packet for this tick."""
        while not self._there:
            self._there += self._hear(tick, "receiving from")
        self._there -= 1


def give(line: Line, name: str, form: Form, stage: int, neighbour: int, deadline: float) -> SharedOut:
    """Make an edge to a neighbour, and pass on what it needs. Raises PeerError."""
    shape, dtype = form
    file = shared_memory(f"sideways-{name}", SLOTS * _pitch(form))
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            line.give(name, [file, theirs.fileno()])
        packets = [Packet(shape, dtype, memory=slot) for slot in _slots(file, form)]
        return SharedOut(packets, ours, stage, neighbour, deadline)
    finally:
        os.close(file)


def take(line: Line, name: str, form: Form, stage: int, neighbour: int, deadline: float) -> SharedIn:
    """An edge that a neighbour made. Raises PeerError."""
    shape, dtype = form
    file, theirs = line.take(name, 2)
    try:
        slots = [Packet(shape, dtype, memory=slot) for slot in _slots(file, form)]
    finally:
        os.close(file)
    shifted = [*slots[-1:], *slots[:-1]]  # what the neighbour made at its tick k - 1 is for tick k
    return SharedIn(shifted, socket.socket(fileno=theirs), stage, neighbour, deadline)


def _pitch(form: Form) -> int:
    """Bytes from one slot to the next: whole pages."""
    return -(-packet_bytes(*form) // mmap.PAGESIZE) * mmap.PAGESIZE


def _slots(file: int, form: Form) -> list[Tensor]:
    memory = torch.frombuffer(mapped(file, SLOTS * _pitch(form)), dtype=torch.uint8)
    return [slot[: packet_bytes(*form)] for slot in memory.split(_pitch(form))]
