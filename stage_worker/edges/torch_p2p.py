"""torch.distributed's transfers between two stages: between hosts by gloo, or by NCCL if both compute on GPUs.

Over an edge of d ticks the sending end has d + 1 packets and the receiving end 2d. A gloo sender waits until it has
heard of the receive, which takes as long as the message itself: so receives are posted 2d - 1 ticks ahead.

By gloo a packet is one message from host memory. By NCCL its tensor is sent from the GPU, and its header by gloo beside
it: a header that came through the GPU would make the host wait for everything that the GPU still has to do. NCCL's
waits are on the GPU's stream and not on the host, so a watchdog keeps their deadline.
"""

from collections import deque
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet
from stage_worker.edges.peer_errors import transfer_failed
from stage_worker.edges.transfer_watchdog import TransferWatchdog

_STAGES = 256  # at most


def tag_of(kind: int, edge: tuple[int, int]) -> int:
    """A tag for messages of a kind between two stages: two processes may hold the ends of several edges."""
    return (kind * _STAGES + min(edge)) * _STAGES + max(edge)


class Peer:
    """A neighbouring stage, in one direction of traffic."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        stage: int,
        neighbour: int,
        deadline: float,
        tag: int = 0,
        rank: int | None = None,
        watchdog: TransferWatchdog | None = None,
    ) -> None:
        """Describe it.

        Args:
            deadline: of each wait, in seconds.
            tag: separates kinds of messages in one group.
            rank: of the process that holds the neighbour; None: the neighbour's number.
            watchdog: for tensors on a GPU: a wait returns at once, the current stream waits in its place, and the
                watchdog ends the process if a transfer is not done `deadline` seconds after it was waited for.
        """
        self._watch = watchdog.watch(f"stage {stage}", neighbour, deadline) if watchdog else None
        self.group, self.stage, self.neighbour, self.tag = group, stage, neighbour, tag
        self._rank = neighbour if rank is None else rank
        self.deadline = timedelta(seconds=deadline)

    def send(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start sending. Raises PeerError if the connection is already known to be broken."""
        try:
            return self.group.send([buffer], self._rank, self.tag)
        except RuntimeError as error:
            raise self.failure(tick, "sending to", error) from error

    def receive(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start receiving. Raises PeerError if the connection is already known to be broken."""
        try:
            return self.group.recv([buffer], self._rank, self.tag)
        except RuntimeError as error:
            raise self.failure(tick, "receiving from", error) from error

    def wait(self, work: dist.Work, tick: int, doing: str) -> None:
        """Wait for a transfer. Raises PeerError naming both stages and the tick."""
        try:
            if self._watch is None:
                work.wait(self.deadline)
            else:
                self._watch.add(work, tick, doing)
                work.wait()
        except RuntimeError as error:
            raise self.failure(tick, doing, error) from error

    def failure(self, tick: int, doing: str, error: RuntimeError) -> PeerError:
        """The error for a failed transfer."""
        place = f"stage {self.stage}, tick {tick}, {doing}"
        return transfer_failed(place, self.neighbour, self.deadline.total_seconds(), error)


class Channel:
    """What carries the packets of one direction: one message each, or a header and a tensor."""

    def __init__(self, host: Peer, device: Peer | None = None) -> None:
        """`device` carries the tensors if they are on a GPU; `host` then carries the headers alone."""
        self._host, self._device = host, device

    def send(self, packet: Packet, tick: int) -> Sequence[dist.Work]:
        """Start sending a packet."""
        if self._device is None:
            return [self._host.send(_whole(packet), tick)]
        return self._host.send(packet.header, tick), self._device.send(packet.dense, tick)

    def receive(self, packet: Packet, tick: int) -> Sequence[dist.Work]:
        """Start receiving a packet."""
        if self._device is None:
            return [self._host.receive(_whole(packet), tick)]
        return self._host.receive(packet.header, tick), self._device.receive(packet.dense, tick)

    def wait(self, works: Sequence[dist.Work], tick: int, doing: str) -> None:
        """Wait for what `send` or `receive` has started. Raises PeerError naming both stages and the tick."""
        self._host.wait(works[0], tick, doing)
        if self._device is not None:
            self._device.wait(works[1], tick, doing)


def _whole(packet: Packet) -> Tensor:
    assert packet.buffer is not None, "a packet that gloo sends is in host memory, or staged there"
    return packet.buffer


class P2POutgoing:
    """The sending end of an edge."""

    def __init__(self, channel: Channel, packets: Sequence[Packet]) -> None:
        self.packets = packets
        self._channel = channel
        self._pending: list[Sequence[dist.Work]] = [()] * len(packets)

    def room(self, tick: int) -> None:
        """Wait until the last send from this tick's packet has ended; unblocked by the neighbour's post."""
        number = tick % len(self.packets)
        if works := self._pending[number]:
            self._channel.wait(works, tick, "sending to")
            self._pending[number] = ()

    def start(self, tick: int) -> None:
        """Start sending this tick's packet."""
        number = tick % len(self.packets)
        self._pending[number] = self._channel.send(self.packets[number], tick)

    def finish(self, tick: int) -> None:
        """Wait until every packet up to this tick's has been sent."""
        for earlier in reversed(range(len(self.packets))):
            self.room(tick - earlier)


class P2PIncoming:
    """The receiving end of an edge. What is posted in one phase and not sent in it is the first of the next."""

    def __init__(self, channel: Channel, packets: Sequence[Packet]) -> None:
        self._channel, self._packets = channel, packets
        self._ahead = len(packets) // 2 - 1  # receives that are posted beyond the one that is asked for
        self._pending: deque[Sequence[dist.Work]] = deque()
        self._next = 0  # tick of the next message to post
        self._offset = 0

    def begin(self, first: int) -> None:
        """Start a phase, whose first message is for tick `first`."""
        oldest = self._next - len(self._pending)
        self._offset += oldest - first
        self._next += first - oldest

    def packet(self, tick: int) -> Packet:
        """The packet for the message for `tick`."""
        return self._packets[(tick + self._offset) % len(self._packets)]

    def post(self, tick: int) -> None:
        """Start receiving the message for `tick`, and those after it for which there are packets."""
        self._next = max(self._next, tick)  # those before it may have come from a checkpoint
        while self._next <= tick + self._ahead:
            self._pending.append(self._channel.receive(self.packet(self._next), self._next))
            self._next += 1

    def wait(self, tick: int) -> None:
        """Wait for the message for `tick`, the next one. Call `post` first."""
        assert self._pending
        self._channel.wait(self._pending.popleft(), tick, "receiving from")
