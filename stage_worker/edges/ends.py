"""The ends of an edge: `Receiver` and `Sender`, each for one direction of traffic with a neighbour.

A stage receives at tick k what its neighbour sent at tick k - 1. A receive is posted one tick ahead, so the message
arrives while the stage computes. A send is only waited for when its packet is needed again.

    receive(k): waits for   the message of the neighbour's tick k - 1; unblocked by the neighbour's send(k - 1)
                then posts  the receive for k + 1
    send(k):    waits for   a free packet; unblocked by the neighbour's posts, at most one tick later

The transport, shared_memory.py or torch_p2p.py, moves the packets between the ends.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet
from common.telemetry.spans import Kind, WorkClock, clock


class Incoming(Protocol):
    """The transport of a receiving end. The message for tick k is in `packets[k % len(packets)]`."""

    packets: Sequence[Packet]

    def post(self, tick: int) -> None:
        """Prepare to receive the message for `tick`. The packet of `tick` - 2 is no longer needed."""

    def wait(self, tick: int) -> None:
        """Wait for the message for `tick`. Raises PeerError naming both stages and the tick."""


class Outgoing(Protocol):
    """The transport of a sending end. The message sent at tick k is in `packets[k % len(packets)]`."""

    packets: Sequence[Packet]

    def room(self, tick: int) -> None:
        """Wait until the packet of `tick` may be overwritten. Raises PeerError naming both stages and the tick."""

    def start(self, tick: int) -> None:
        """Start sending the packet of `tick`. Raises PeerError if the connection is already known to be broken."""

    def finish(self, tick: int) -> None:
        """Wait until everything up to `tick` has been sent. Raises PeerError as `room` does."""


class Receiver:
    """The receiving end of an edge."""

    def __init__(
        self, incoming: Incoming, stage: int, neighbour: int, first_tick: int, work: WorkClock, wait: Kind
    ) -> None:
        """`first_tick` ≥ 1 is the tick of the first message. The time spent waiting is added to `work` as `wait`."""
        assert first_tick >= 1
        self._incoming, self._packets, self._first = incoming, incoming.packets, first_tick
        self._stage, self._neighbour = stage, neighbour
        self._work, self._wait = work, int(wait)
        self._posted = False

    def receive(self, tick: int) -> Packet | None:
        """The packet that the neighbour sent at `tick` - 1, valid until the next call; None before the first."""
        packet = None
        if tick >= self._first:
            packet = self._arrived(tick)
        if tick >= self._first - 1 and not (packet is not None and packet.last):
            self._incoming.post(tick + 1)
            self._posted = True
        return packet

    def settle(self, tick: int) -> None:
        """Wait until the message for `tick` has arrived, without consuming it."""
        if self._posted:
            start = clock()
            self._incoming.wait(tick)
            self._work.add(self._wait, start)
            self._posted = False

    def expects(self, tick: int) -> bool:
        """Whether there is a message for `tick`."""
        return tick >= self._first

    def waiting(self, tick: int) -> Tensor:
        """The message for `tick`, uint8. Call `settle` first. For checkpoints."""
        return self._packet(tick).to_bytes()

    def put(self, tick: int, message: Tensor) -> None:
        """Set the message for `tick`, uint8, as if it had arrived. For checkpoints."""
        self._packet(tick).from_bytes(message)

    def _packet(self, tick: int) -> Packet:
        return self._packets[tick % len(self._packets)]

    def _arrived(self, tick: int) -> Packet:
        self.settle(tick)
        packet = self._packet(tick)
        packet.load()
        if packet.tick != tick - 1:
            raise PeerError(
                f"stage {self._stage}, tick {tick}: received the packet of tick {packet.tick} from stage "
                f"{self._neighbour}, expected that of tick {tick - 1}: the two are out of step, so restart the run"
            )
        return packet


class Sender:
    """The sending end of an edge.

    Attributes:
        bytes: number of bytes sent since last zeroed.
    """

    def __init__(self, outgoing: Outgoing, work: WorkClock, send: Kind, wait: Kind) -> None:
        """The time of each `send` is added to `work` as `send`, and the part of it spent waiting also as `wait`."""
        self.bytes = 0
        self._outgoing, self._packets = outgoing, outgoing.packets
        self._work, self._send, self._wait = work, int(send), int(wait)

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Pack `tensor`, computed at `tick` from `source`, and start sending it."""
        start = clock()
        self._outgoing.room(tick)
        self._work.add(self._wait, start)
        packet = self._packets[tick % len(self._packets)]
        packet.pack(tick, source, tensor)
        packet.flush()
        self.bytes += packet.nbytes
        self._outgoing.start(tick)
        self._work.add(self._send, start)

    def settle(self, tick: int) -> None:
        """Wait until everything up to `tick` has been sent."""
        start = clock()
        self._outgoing.finish(tick)
        self._work.add(self._wait, start)
