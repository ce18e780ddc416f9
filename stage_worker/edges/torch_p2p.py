"""An edge over torch.distributed: over the network with gloo, between GPUs with NCCL.

Each end has two packets of its own, one for even and one for odd ticks.
"""

from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from common.rule.packet import Packet
from stage_worker.edges.peer_errors import transfer_failed


class Peer:
    """A neighbouring stage, for transfers in one direction."""

    def __init__(self, group: dist.ProcessGroup, stage: int, neighbour: int, deadline: float, tag: int = 0) -> None:
        """`deadline` of each wait, in seconds. `tag` separates kinds of traffic that share a group."""
        self.group, self.stage, self.neighbour, self.tag = group, stage, neighbour, tag
        self.deadline = timedelta(seconds=deadline)

    def send(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start sending. Raises PeerError if the connection is already known to be broken."""
        try:
            return self.group.send([buffer], self.neighbour, self.tag)
        except RuntimeError as error:
            raise self._failure(tick, "sending to", error) from error

    def receive(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start receiving. Raises PeerError if the connection is already known to be broken."""
        try:
            return self.group.recv([buffer], self.neighbour, self.tag)
        except RuntimeError as error:
            raise self._failure(tick, "receiving from", error) from error

    def wait(self, work: dist.Work, tick: int, doing: str) -> None:
        """Wait for a transfer. Raises PeerError naming both stages, the tick and `doing`."""
        try:
            work.wait(self.deadline)
        except RuntimeError as error:
            raise self._failure(tick, doing, error) from error

    def _failure(self, tick: int, doing: str, error: RuntimeError) -> PeerError:
        place = f"stage {self.stage}, tick {tick}, {doing}"
        return transfer_failed(place, self.neighbour, self.deadline.total_seconds(), error)


class P2POutgoing:
    """The sending end of an edge."""

    def __init__(self, peer: Peer, packets: Sequence[Packet]) -> None:
        self.packets = packets
        self._peer = peer
        self._pending: list[dist.Work | None] = [None] * len(packets)

    def room(self, tick: int) -> None:
        """Wait until the previous send of this tick's packet is done; unblocked by the neighbour's post."""
        number = tick % len(self.packets)
        work = self._pending[number]
        if work is not None:
            self._peer.wait(work, tick, "sending to")
            self._pending[number] = None

    def start(self, tick: int) -> None:
        """Start sending this tick's packet."""
        number = tick % len(self.packets)
        self._pending[number] = self._peer.send(self.packets[number].buffer, tick)

    def finish(self, tick: int) -> None:
        """Wait until every packet up to this tick's has been sent."""
        for earlier in reversed(range(len(self.packets))):
            self.room(tick - earlier)


class P2PIncoming:
    """The receiving end of an edge."""

    def __init__(self, peer: Peer, packets: Sequence[Packet]) -> None:
        self.packets = packets
        self._peer = peer
        self._pending: dist.Work | None = None

    def post(self, tick: int) -> None:
        """Start receiving the message for this tick."""
        self._pending = self._peer.receive(self.packets[tick % len(self.packets)].buffer, tick)

    def wait(self, tick: int) -> None:
        """Wait for the message for this tick. Call `post` first."""
        assert self._pending is not None
        self._peer.wait(self._pending, tick, "receiving from")
        self._pending = None
