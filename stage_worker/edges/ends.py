"""A stage's edges: the receiving and the sending end of one direction of traffic with a neighbour.

What a stage reads at tick k its neighbour sent at tick k - 1. A receive is posted a tick ahead, so a message lands
while the stage computes; a send is only waited for when its packet is needed again.

    receive(k): waits for   the message of the neighbour's tick k - 1; unblocked by the neighbour's send(k - 1)
                then posts  the receive for k + 1
    send(k):    waits for   room for its packet; unblocked by the neighbour's posts, which come at most a tick later

How a packet gets from one end to the other is the business of gloo.py, or of shared.py on one host.
"""

import time
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet


class Source(Protocol):
    """Where a stage's inputs or gradients come from."""

    waited: float  # seconds spent waiting, since last zeroed

    def receive(self, tick: int) -> Packet | None:
        """The packet for this tick; None before the first."""


class Incoming(Protocol):
    """The transport of a receiving end. Tick k's message is in packets[k mod their number]."""

    packets: Sequence[Packet]

    def post(self, tick: int) -> None:
        """Be ready for the message for `tick`: the packet of tick - 2 is no longer needed."""

    def wait(self, tick: int) -> None:
        """Wait for the message for `tick`. Raises PeerError naming both stages and the tick."""


class Outgoing(Protocol):
    """The transport of a sending end. What is made at tick k is in packets[k mod their number]."""

    packets: Sequence[Packet]

    def room(self, tick: int) -> None:
        """Wait until the packet of `tick` may be overwritten. Raises PeerError naming both stages and the tick."""

    def start(self, tick: int) -> None:
        """Let the packet of `tick` leave. Raises PeerError where the connection is already known to be broken."""

    def finish(self, tick: int) -> None:
        """Wait until everything up to `tick` has left. Raises PeerError as `room` does."""


class Receiver:
    """The receiving end of an edge."""

    def __init__(self, incoming: Incoming, stage: int, neighbour: int, first_tick: int) -> None:
        """`first_tick` ≥ 1 is the tick of the first message."""
        assert first_tick >= 1
        self.waited = 0.0
        self._incoming, self._packets, self._first = incoming, incoming.packets, first_tick
        self._stage, self._neighbour = stage, neighbour
        self._posted = False

    def receive(self, tick: int) -> Packet | None:
        """The neighbour's packet of its tick - 1; None before the first. It stays valid until the next receive."""
        packet = None
        if tick >= self._first:
            packet = self._arrived(tick)
        if tick >= self._first - 1 and not (packet is not None and packet.last):
            self._incoming.post(tick + 1)
            self._posted = True
        return packet

    def settle(self, tick: int) -> None:
        """Wait until the message for `tick` is in, without taking it."""
        if self._posted:
            self.wait(tick)

    def expects(self, tick: int) -> bool:
        """Whether there is a message for `tick`."""
        return tick >= self._first

    def waiting(self, tick: int) -> Tensor:
        """The message for `tick` as bytes, once settled (checkpoints)."""
        return self._packet(tick).buffer

    def put(self, tick: int, message: Tensor) -> None:
        """Let `message` be the one for `tick`, as if it had come (checkpoints)."""
        self._packet(tick).buffer.copy_(message)

    def _packet(self, tick: int) -> Packet:
        return self._packets[tick % len(self._packets)]

    def _arrived(self, tick: int) -> Packet:
        if self._posted:
            self.wait(tick)
        packet = self._packet(tick)
        packet.arrive()
        if packet.tick != tick - 1:
            raise PeerError(
                f"stage {self._stage}, tick {tick}: stage {self._neighbour} sent its tick {packet.tick} "
                f"where {tick - 1} was due: the two have lost step, start the run again"
            )
        return packet

    def wait(self, tick: int) -> None:
        """Wait for the message for `tick`, whose receive is posted."""
        assert self._posted
        start = time.perf_counter()
        self._incoming.wait(tick)
        self.waited += time.perf_counter() - start
        self._posted = False


class Sender:
    """The sending end of an edge."""

    def __init__(self, outgoing: Outgoing, overlap: bool) -> None:
        """Without `overlap` a transfer only starts in `settle`, when the tick's compute is over."""
        self.waited = 0.0
        self.bytes = 0
        self._outgoing, self._packets, self._overlap = outgoing, outgoing.packets, overlap
        self._held_back: int | None = None  # tick of a packet that waits for `settle` to leave

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Pack `tensor`, computed at `tick` from `source`, and let it leave."""
        self.wait(tick)
        packet = self._packets[tick % len(self._packets)]
        packet.pack(tick, source, tensor)
        packet.depart()
        self.bytes += packet.buffer.nbytes
        if self._overlap:
            self._outgoing.start(tick)
        else:
            self._held_back = tick

    def release(self) -> None:
        """Start the transfer that was held back, if any."""
        if self._held_back is not None:
            self._outgoing.start(self._held_back)
            self._held_back = None

    def settle(self, tick: int) -> None:
        """Wait until everything sent up to `tick` has left."""
        self.release()
        start = time.perf_counter()
        self._outgoing.finish(tick)
        self.waited += time.perf_counter() - start

    def wait(self, tick: int) -> None:
        """Wait until the packet of `tick` may be overwritten."""
        start = time.perf_counter()
        self._outgoing.room(tick)
        self.waited += time.perf_counter() - start
