"""A stage's edges: the receiving and the sending end of one direction of traffic with a neighbour.

What a stage reads at tick k its neighbour sent at tick k - 1. A receive is posted a tick ahead, so a message lands
while the stage computes; a send is only waited for when its packet is needed again.

    receive(k): waits for   the message of the neighbour's tick k - 1; unblocked by the neighbour's send(k - 1)
                then posts  the receive for k + 1
    send(k):    waits for   room for its packet; unblocked by the neighbour's posts, which come at most a tick later

How a packet gets from one end to the other is up to the transport: shared_memory.py or torch_p2p.py.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet
from common.telemetry.spans import Kind, WorkClock, clock


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

    def __init__(
        self, incoming: Incoming, stage: int, neighbour: int, first_tick: int, work: WorkClock, wait: Kind
    ) -> None:
        """`first_tick` ≥ 1 is the tick of the first message; time spent waiting is added to `work` as `wait`."""
        assert first_tick >= 1
        self._incoming, self._packets, self._first = incoming, incoming.packets, first_tick
        self._stage, self._neighbour = stage, neighbour
        self._work, self._wait = work, int(wait)
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
            start = clock()
            self._incoming.wait(tick)
            self._work.add(self._wait, start)
            self._posted = False

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
        self.settle(tick)
        packet = self._packet(tick)
        packet.load_from_buffer()
        if packet.tick != tick - 1:
            raise PeerError(
                f"stage {self._stage}, tick {tick}: stage {self._neighbour} sent its tick {packet.tick} "
                f"where {tick - 1} was due: the two are out of step, start the run again"
            )
        return packet


class Sender:
    """The sending end of an edge.

    Attributes:
        bytes: sent since last zeroed.
    """

    def __init__(self, outgoing: Outgoing, work: WorkClock, send: Kind, wait: Kind) -> None:
        """The time of a `send` is added to `work` as `send`, that of waiting for room as `wait`, too."""
        self.bytes = 0
        self._outgoing, self._packets = outgoing, outgoing.packets
        self._work, self._send, self._wait = work, int(send), int(wait)

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Pack `tensor`, computed at `tick` from `source`, and let it leave."""
        start = clock()
        self._outgoing.room(tick)
        self._work.add(self._wait, start)
        packet = self._packets[tick % len(self._packets)]
        packet.pack(tick, source, tensor)
        packet.flush_to_buffer()
        self.bytes += packet.buffer.nbytes
        self._outgoing.start(tick)
        self._work.add(self._send, start)

    def settle(self, tick: int) -> None:
        """Wait until everything sent up to `tick` has left."""
        start = clock()
        self._outgoing.finish(tick)
        self._work.add(self._wait, start)
