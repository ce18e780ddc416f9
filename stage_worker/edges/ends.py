"""The ends of an edge: `Receiver` and `Sender`, each for one direction of traffic with a neighbour.

Over an edge of d ticks a stage receives at tick k what its neighbour sent at tick k - d; d is 1 unless a link is slow.
Receives are posted ahead, so messages arrive while the stage computes. A send is only waited for when its packet is
needed again.

    receive(k): waits for   the message of the neighbour's tick k - d; unblocked by the neighbour's send(k - d)
                then posts  the receive for k + d
    send(k):    waits for   a free packet; unblocked by the neighbour's posts, at most d ticks later

The transport moves the packets between the ends: shared_memory.py, device_memory.py, torch_p2p.py or local.py.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet
from common.rule.wire import Decoder, Encoder
from common.telemetry.spans import Kind, WorkClock, clock

_NEVER = sys.maxsize  # a tick


class Incoming(Protocol):
    """The transport of a receiving end, over an edge of d ticks."""

    def begin(self, first: int) -> None:
        """Start a phase, whose first message is for tick `first`."""

    def packet(self, tick: int) -> Packet:
        """The packet for the message for `tick`."""

    def post(self, tick: int) -> None:
        """Prepare to receive the message for `tick`. The packet for tick - d - 1 is no longer needed."""

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
        self,
        incoming: Incoming,
        stage: int,
        neighbour: int,
        first_tick: int,
        work: WorkClock,
        wait: Kind,
        ticks: int = 1,
        decoder: Decoder | None = None,
    ) -> None:
        """Start to receive.

        Args:
            first_tick: the tick of the first message, at least `ticks`.
            work, wait: the time spent waiting is added to `work` as `wait`.
            ticks: of the edge.
            decoder: of its format; by default tensors pass as computed.
        """
        assert first_tick >= ticks >= 1
        incoming.begin(first_tick)
        self._incoming, self._first, self._ticks = incoming, first_tick, ticks
        self._stage, self._neighbour = stage, neighbour
        self._decoder = decoder or Decoder()
        self._work, self._wait = work, int(wait)
        self._awaited = first_tick  # the first tick whose message has not been waited for

    def receive(self, tick: int) -> Packet | None:
        """The packet that the neighbour sent `ticks` ticks ago, valid until the next call; None before the first."""
        packet = None
        if tick >= self._first:
            packet = self._arrived(tick)
            if packet.last:
                self._awaited = _NEVER
                return packet
        if tick >= self._first - self._ticks:
            self._incoming.post(tick + self._ticks)
        return packet

    def settle(self, tick: int) -> None:
        """Wait until all that was sent before `tick`, the next one, has arrived, without consuming it."""
        self._wait_until(tick + self._ticks)

    def messages(self, tick: int) -> Iterator[int]:
        """The ticks whose messages are on the edge before `tick`, the next one."""
        yield from range(max(tick, self._first), tick + self._ticks)

    def waiting(self, tick: int) -> Tensor:
        """The message for `tick`, uint8. Call `settle` first. For checkpoints."""
        return self._incoming.packet(tick).to_bytes()

    def put(self, tick: int, message: Tensor) -> None:
        """Set the message for `tick`, uint8, as if it had arrived. For checkpoints."""
        self._incoming.packet(tick).from_bytes(message)
        self._awaited = tick + 1

    def _wait_until(self, end: int) -> None:
        """Wait for the messages for ticks before `end`."""
        while self._awaited < end:
            start = clock()
            self._incoming.wait(self._awaited)
            self._work.add(self._wait, start)
            self._awaited += 1

    def _arrived(self, tick: int) -> Packet:
        self._wait_until(tick + 1)
        packet = self._incoming.packet(tick)
        packet.load()
        if packet.tick != tick - self._ticks:
            raise PeerError(
                f"stage {self._stage}, tick {tick}: received the packet of tick {packet.tick} from stage "
                f"{self._neighbour}, expected that of tick {tick - self._ticks}: the two are out of step, so restart "
                f"the run"
            )
        return self._decoder.unpack(packet)


class Sender:
    """The sending end of an edge.

    Attributes:
        bytes: number of bytes sent since last zeroed.
    """

    def __init__(
        self, outgoing: Outgoing, work: WorkClock, send: Kind, wait: Kind, encoder: Encoder | None = None
    ) -> None:
        """Create the end of an edge.

        Args:
            work, send, wait: the time of each `send` is added to `work` as `send`, and the part of it spent waiting
                also as `wait`.
            encoder: of the edge's format; by default tensors pass as computed.
        """
        self.bytes = 0
        self._encoder = encoder or Encoder()
        self._outgoing, self._packets = outgoing, outgoing.packets
        self._work, self._send, self._wait = work, int(send), int(wait)

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Pack `tensor`, computed at `tick` from `source`, and start sending it."""
        start = clock()
        self._outgoing.room(tick)
        self._work.add(self._wait, start)
        packet = self._packets[tick % len(self._packets)]
        self._encoder.pack(packet, tick, source, tensor)
        packet.flush()
        self.bytes += packet.nbytes
        self._outgoing.start(tick)
        self._work.add(self._send, start)

    @property
    def residual(self) -> Packet | None:
        """What the format's rounding has lost and is still to be sent; None if nothing is kept. For checkpoints."""
        return self._encoder.residual

    def settle(self, tick: int) -> None:
        """Wait until everything up to `tick` has been sent."""
        start = clock()
        self._outgoing.finish(tick)
        self._work.add(self._wait, start)
