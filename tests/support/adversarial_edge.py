"""An edge between two threads that is as late as the protocol allows, and spoils every buffer that must not be read.

A packet is filled with NaN when its receive is posted, and copied only when the receiver waits for it: a receiver that
reads a packet too early, or still reads it after the next receive is posted, computes with NaN. The sender's packet is
copied late and then filled with NaN: a sender that overwrites it too early sends a changed packet.
"""

import sys
import threading
from collections.abc import Callable, Sequence

import torch

from common.errors import PeerError
from common.rule.packet import Packet

_TIMEOUT = 30.0  # seconds


class AdversarialEdge:
    """Both ends of an edge of `ticks` ticks: the transports `outgoing` and `incoming`.

    Attributes:
        fail_at: The tick at which the sending end fails, as if its neighbour had died; None for never.
    """

    def __init__(self, make: Callable[[], Packet], name: str, ticks: int = 1) -> None:
        self.name, self.ticks = name, ticks
        self.fail_at: int | None = None
        self.outgoing, self.incoming = _Outgoing(self, make), _Incoming(self, make)
        self._changed = threading.Condition()
        self._sent = self._taken = -1  # the last tick sent, and the last tick copied
        self.first_sent = sys.maxsize  # a tick
        self._broken = False

    def break_off(self) -> None:
        """Make both ends fail from now on."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait until `reached` returns True. Raises PeerError if the edge is broken."""
        with self._changed:
            assert self._changed.wait_for(lambda: reached() or self._broken, _TIMEOUT), f"{self.name}: {what}"
            if not reached():
                raise PeerError(f"{self.name}: the other end is gone, {what}")

    def sent(self, tick: int) -> None:
        with self._changed:
            assert tick == self._sent + 1 or self._sent < 0, f"{self.name}: tick {tick} sent after {self._sent}"
            self.first_sent, self._sent = min(self.first_sent, tick), tick
            self._changed.notify_all()

    def take(self, tick: int) -> None:
        """Copy the packet that was sent at `tick`."""
        source = self.outgoing.packets[tick % len(self.outgoing.packets)]
        self.incoming.packet(tick + self.ticks).from_bytes(source.to_bytes())
        _spoil(source)
        with self._changed:
            self._taken = tick
            self._changed.notify_all()

    @property
    def last_sent(self) -> int:
        return self._sent

    @property
    def last_taken(self) -> int:
        return self._taken


class _Outgoing:
    def __init__(self, edge: AdversarialEdge, make: Callable[[], Packet]) -> None:
        self.packets: Sequence[Packet] = [make() for _ in range(edge.ticks + 1)]
        self._edge = edge

    def room(self, tick: int) -> None:
        """Wait until the previous content of this tick's packet has been copied."""
        edge, before = self._edge, tick - len(self.packets)
        if edge.fail_at == tick:
            edge.break_off()
            raise PeerError(f"{edge.name}, tick {tick}: it fails here")
        edge.until(lambda: before < edge.first_sent or edge.last_taken >= before, f"tick {tick} has no room")

    def start(self, tick: int) -> None:
        self._edge.sent(tick)

    def finish(self, tick: int) -> None:
        edge = self._edge
        edge.until(lambda: edge.last_taken >= min(tick, edge.last_sent) - edge.ticks, f"tick {tick} has not left")


class _Incoming:
    def __init__(self, edge: AdversarialEdge, make: Callable[[], Packet]) -> None:
        self._packets: Sequence[Packet] = [make() for _ in range(2 * edge.ticks)]
        self._edge = edge

    def begin(self, first: int) -> None:
        """Nothing was posted before."""

    def packet(self, tick: int) -> Packet:
        return self._packets[tick % len(self._packets)]

    def post(self, tick: int) -> None:
        _spoil(self.packet(tick))

    def wait(self, tick: int) -> None:
        edge = self._edge
        edge.until(lambda: edge.last_sent >= tick - edge.ticks, f"nothing came for tick {tick}")
        edge.take(tick - edge.ticks)


def _spoil(packet: Packet) -> None:
    packet.tensor.fill_(torch.nan)
    packet.head[:] = 1 << 40  # no class has this number
