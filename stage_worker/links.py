"""A stage's edges: the receiving and the sending end of one direction of traffic with a neighbour.

Both keep two packets and alternate between them by the tick's parity. A receive is posted a tick ahead, so a message
lands while the stage computes; a send is only waited for when its packet is needed again, two ticks later. What a
stage reads at tick k its neighbour sent at tick k - 1.

    receive(k): waits for   the message of the neighbour's tick k - 1; unblocked by the neighbour's send(k - 1)
                then posts  the receive for k + 1
    send(k):    waits for   the end of send(k - 2); unblocked by the neighbour's post of receive(k - 1)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from common.group import Groups
from common.packet import Packet


class Source(Protocol):
    """Where a stage's inputs or gradients come from."""

    waited: float  # seconds spent waiting, since last zeroed

    def receive(self, tick: int) -> Packet | None:
        """The packet for this tick; None before the first."""


class Peer:
    """A neighbouring stage, as this stage sees it in one direction of traffic."""

    def __init__(self, group: dist.ProcessGroup, stage: int, neighbour: int, deadline: float, tag: int = 0) -> None:
        """`deadline` in seconds; `tag` keeps phases apart (0 training, 1 evaluation)."""
        self.group, self.stage, self.neighbour, self.tag = group, stage, neighbour, tag
        self.deadline = timedelta(seconds=deadline)

    def send(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start sending. Raises PeerError where the connection is already known to be broken."""
        try:
            return self.group.send([buffer], self.neighbour, self.tag)
        except RuntimeError as error:
            raise PeerError(self._explain(tick, "sending to", str(error))) from error

    def receive(self, buffer: Tensor, tick: int) -> dist.Work:
        """Start receiving. Raises PeerError where the connection is already known to be broken."""
        try:
            return self.group.recv([buffer], self.neighbour, self.tag)
        except RuntimeError as error:
            raise PeerError(self._explain(tick, "receiving from", str(error))) from error

    def wait(self, work: dist.Work, tick: int, doing: str) -> None:
        """Wait for a transfer. Raises PeerError naming both stages and the tick."""
        try:
            work.wait(self.deadline)
        except RuntimeError as error:
            raise PeerError(self._explain(tick, doing, str(error))) from error

    def _explain(self, tick: int, doing: str, reason: str) -> str:
        if "imed out" in reason:  # gloo's and torch's only sign of a time-out
            seconds = self.deadline.total_seconds()
            fate = f"nothing moved for {seconds:g} s: it is stuck, stopped or slower than network.deadline allows"
        else:
            fate = f"the connection broke, so it has probably died ({reason.splitlines()[0][:120]})"
        return (
            f"stage {self.stage}, tick {tick}, {doing} stage {self.neighbour}: {fate}. "
            f"Look at stage {self.neighbour}'s own message, then start the run again"
        )


class Receiver:
    """The receiving end of an edge."""

    def __init__(self, peer: Peer, packets: Sequence[Packet], first_tick: int) -> None:
        """`first_tick` ≥ 1 is the tick of the first message."""
        assert first_tick >= 1
        self.waited = 0.0
        self._peer, self._packets, self._first = peer, packets, first_tick
        self._pending: dist.Work | None = None

    def receive(self, tick: int) -> Packet | None:
        """The neighbour's packet of its tick - 1; None before the first. It stays valid until the next receive."""
        packet = None
        if tick >= self._first:
            packet = self._arrived(tick)
        if tick >= self._first - 1 and not (packet is not None and packet.last):
            self._post(tick + 1)
        return packet

    def settle(self, tick: int) -> None:
        """Wait until the message for `tick` is in, without taking it."""
        if self._pending is not None:
            self.wait(tick)

    def expects(self, tick: int) -> bool:
        """Whether there is a message for `tick`."""
        return tick >= self._first

    def waiting(self, tick: int) -> Tensor:
        """The message for `tick` as bytes, once settled (checkpoints)."""
        return self._packets[tick % 2].buffer

    def put(self, tick: int, message: Tensor) -> None:
        """Let `message` be the one for `tick`, as if it had come (checkpoints)."""
        self._packets[tick % 2].buffer.copy_(message)

    def _post(self, tick: int) -> None:
        self._pending = self._peer.receive(self._packets[tick % 2].buffer, tick)

    def _arrived(self, tick: int) -> Packet:
        if self._pending is not None:
            self.wait(tick)
        packet = self._packets[tick % 2]
        packet.arrive()
        if packet.tick != tick - 1:
            raise PeerError(
                f"stage {self._peer.stage}, tick {tick}: stage {self._peer.neighbour} sent its tick {packet.tick} "
                f"where {tick - 1} was due: the two have lost step, start the run again"
            )
        return packet

    def wait(self, tick: int) -> None:
        """Wait for the message for `tick`, whose receive is posted."""
        assert self._pending is not None
        start = time.perf_counter()
        self._peer.wait(self._pending, tick, "receiving from")
        self.waited += time.perf_counter() - start
        self._pending = None


class Sender:
    """The sending end of an edge."""

    def __init__(self, peer: Peer, packets: Sequence[Packet], overlap: bool) -> None:
        """Without `overlap` a transfer only starts in `settle`, when the tick's compute is over."""
        self.waited = 0.0
        self.bytes = 0
        self._peer, self._packets, self._overlap = peer, packets, overlap
        self._pending: list[dist.Work | None] = [None, None]
        self._held_back: int | None = None  # tick of a packet that waits for `settle` to leave

    def send(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Pack `tensor`, computed at `tick` from `source`, and let it leave."""
        parity = tick % 2
        self.wait(parity, tick)
        packet = self._packets[parity]
        packet.pack(tick, source, tensor)
        packet.depart()
        self.bytes += packet.buffer.nbytes
        if self._overlap:
            self._pending[parity] = self._peer.send(packet.buffer, tick)
        else:
            self._held_back = tick

    def release(self) -> None:
        """Start the transfer that was held back, if any."""
        if self._held_back is not None:
            parity = self._held_back % 2
            self._pending[parity] = self._peer.send(self._packets[parity].buffer, self._held_back)
            self._held_back = None

    def settle(self, tick: int) -> None:
        """Wait until everything sent up to `tick` has left."""
        self.release()
        self.wait((tick - 1) % 2, tick)
        self.wait(tick % 2, tick)

    def wait(self, parity: int, tick: int) -> None:
        """Wait until the packet of this parity has left, if it was sent."""
        work = self._pending[parity]
        if work is not None:
            start = time.perf_counter()
            self._peer.wait(work, tick, "sending to")
            self.waited += time.perf_counter() - start
            self._pending[parity] = None


Form = tuple[torch.Size, torch.dtype]  # of what an edge carries


def agree(groups: Groups, stage: int, stages: int, takes: Form, gives: Form, deadline: float) -> None:
    """Compare with both neighbours what passes between them, before the first tick.

    `takes` and `gives` are the forms of this stage's input and output; `gives` goes up in the forward group, `takes`
    down in the backward group, the ways that activations and gradients go. Raises PeerError naming both stages where
    the shapes or dtypes of an edge differ, or where a neighbour does not answer.
    """
    given = _exchange(Peers(groups.forward, stage, stages, deadline), gives, to=stage + 1, of=stage - 1)
    taken = _exchange(Peers(groups.backward, stage, stages, deadline), takes, to=stage - 1, of=stage + 1)
    for below, above, gift, wish in ((stage - 1, stage, given, takes), (stage, stage + 1, gives, taken)):
        if gift is not None and wish is not None and below >= 0 and above < stages and gift != wish:
            raise PeerError(
                f"stage {below} gives {_text(gift)} but stage {above} takes {_text(wish)}: "
                f"do both hosts have the same model file and the same versions?"
            )


@dataclass(frozen=True)
class Peers:
    """The neighbours of a stage in one group."""

    group: dist.ProcessGroup
    stage: int
    stages: int
    deadline: float


def _exchange(peers: Peers, own: Form, to: int, of: int) -> Form | None:
    """Tell the neighbour `to` a form, and hear one from `of`, where there are such neighbours."""
    device = torch.device("cuda") if dist.get_backend(peers.group) == "nccl" else torch.device("cpu")
    heard, told = torch.zeros(_DESCRIPTION, dtype=torch.int64, device=device), _describe(own).to(device)
    below_or_above = {
        neighbour: Peer(peers.group, peers.stage, neighbour, peers.deadline, _AGREEING)
        for neighbour in (of, to)
        if 0 <= neighbour < peers.stages
    }
    works = []
    if of in below_or_above:
        works.append((of, below_or_above[of].receive(heard, 0)))
    if to in below_or_above:
        works.append((to, below_or_above[to].send(told, 0)))
    for neighbour, work in works:
        below_or_above[neighbour].wait(work, 0, "agreeing on shapes with")
    return _form(heard.tolist()) if 0 <= of < peers.stages else None


_AGREEING = 2  # tag
_DESCRIPTION = 16  # int64: dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _describe(form: Form) -> Tensor:
    shape, dtype = form
    values = [_DTYPES.index(dtype), len(shape), *shape]
    return torch.tensor(values + [0] * (_DESCRIPTION - len(values)))


def _form(description: list[int]) -> Form:
    kind, dimensions, *sizes = description
    return torch.Size(sizes[:dimensions]), _DTYPES[kind]


def _text(form: Form) -> str:
    return f"{list(form[0])} of {str(form[1]).removeprefix('torch.')}"
