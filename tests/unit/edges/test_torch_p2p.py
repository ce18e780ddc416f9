"""Edges over torch's point-to-point transfers, with a fake process group: packets, waits and torch's errors."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest
import torch

from common.errors import PeerError
from common.rule.packet import Packet
from stage_worker.edges.peer_errors import is_lost_peer
from stage_worker.edges.torch_p2p import Channel, P2PIncoming, P2POutgoing, Peer

# gloo's errors of timeouts and closed connections are copied from runs with torch 2.13; the others are from torch's
# sources and have not been observed
_GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
STUCK = [
    f"{_GLOO}unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation to complete",
    "Application timeout caused pair closure",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=RECV, NumelIn=64, NumelOut=64, "
    "Timeout(ms)=1000) ran for 1003 milliseconds before timing out.",
    "[Rank 1] WorkNCCL(SeqNum=7, OpType=SEND) timed out in blocking wait.",
]
BROKEN = [
    f"{_GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:31945. This is typically caused by a remote worker "
    "crashing. Check the logs of the remote worker before reporting an error. GLHF! 🏖️",
    f"{_GLOO}pair.cc:547] Read error [127.0.0.1]:40012: Connection reset by peer",
    "NCCL communicator was aborted on rank 1.",
    "NCCL error in: NCCLUtils.cpp:94, remote process exited or there was a network error, NCCL version 2.29.3\n"
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "NCCL error in: ProcessGroupNCCL.cpp:4020, unhandled system error (run with NCCL_DEBUG=INFO for details)",
]


@dataclass
class Work:
    """A transfer that ends, or fails, when it is waited for."""

    name: str
    group: "Group"

    def wait(self, timeout: timedelta) -> None:
        self.group.log.append(f"wait {self.name}")
        assert timeout == timedelta(seconds=20)
        if self.group.fails == self.name:
            raise RuntimeError(self.group.text)


@dataclass
class Group:
    """A process group that records its operations.

    Attributes:
        fails: The transfer that fails: "send 3" for the fourth send when it is waited for, "start send 3" at its start.
    """

    log: list[str] = field(default_factory=list)
    buffers: list[torch.Tensor] = field(default_factory=list)
    fails: str = ""
    text: str = ""

    def send(self, buffers: list[torch.Tensor], peer: int, tag: int) -> Work:
        return self._start("send", buffers, peer, tag)

    def recv(self, buffers: list[torch.Tensor], peer: int, tag: int) -> Work:
        return self._start("recv", buffers, peer, tag)

    def _start(self, what: str, buffers: list[torch.Tensor], peer: int, tag: int) -> Work:
        name = f"{what} {sum(entry.startswith(what) for entry in self.log)}"
        if self.fails == f"start {name}":
            raise RuntimeError(self.text)
        self.log.append(name)
        self.buffers += buffers
        assert (peer, tag) == (2, 0)
        return Work(name, self)


def peer_of(group: Group) -> Peer:
    return Peer(cast(Any, group), 1, 2, 20.0)


def packets() -> list[Packet]:
    return [Packet((2, 3)) for _ in range(2)]


def test_a_send_is_waited_for_only_when_its_packet_is_reused() -> None:
    group, own = Group(), packets()
    outgoing = P2POutgoing(Channel(peer_of(group)), own)
    for tick in range(4):
        outgoing.room(tick)
        outgoing.start(tick)
    assert group.log == ["send 0", "send 1", "wait send 0", "send 2", "wait send 1", "send 3"]
    assert [buffer is own[tick % 2].buffer for tick, buffer in enumerate(group.buffers)] == [True] * 4
    outgoing.finish(3)
    assert group.log[6:] == ["wait send 2", "wait send 3"]
    outgoing.finish(3)
    assert len(group.log) == 8


def test_a_receive_is_posted_into_the_packet_of_its_tick() -> None:
    group, own = Group(), packets()
    incoming = P2PIncoming(Channel(peer_of(group)), own)
    for tick in range(1, 4):
        incoming.post(tick)
        incoming.wait(tick)
    assert group.log == [entry for n in range(3) for entry in (f"recv {n}", f"wait recv {n}")]
    assert [buffer is own[tick % 2].buffer for tick, buffer in enumerate(group.buffers, 1)] == [True] * 3


@pytest.mark.parametrize("text", STUCK)
def test_a_timeout_is_reported_as_no_progress(text: str) -> None:
    group = Group(fails="recv 0", text=text)
    incoming = P2PIncoming(Channel(peer_of(group)), packets())
    incoming.post(7)
    with pytest.raises(PeerError, match=r"stage 1, tick 7, receiving from stage 2: no progress for 20 s"):
        incoming.wait(7)
    assert is_lost_peer(RuntimeError(text))


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_connection_is_reported_as_broken(text: str) -> None:
    group = Group(fails="send 1", text=text)
    outgoing = P2POutgoing(Channel(peer_of(group)), packets())
    for tick in (4, 5):
        outgoing.room(tick)
        outgoing.start(tick)
    outgoing.room(6)
    with pytest.raises(PeerError, match=r"stage 1, tick 7, sending to stage 2: the connection broke") as error:
        outgoing.room(7)
    assert text.splitlines()[0][:120] in str(error.value)
    assert is_lost_peer(RuntimeError(text))


@pytest.mark.parametrize("what", ["send", "recv"])
def test_a_transfer_that_fails_at_its_start_is_a_peer_error(what: str) -> None:
    peer = peer_of(Group(fails=f"start {what} 0", text=BROKEN[0]))
    start = (
        P2POutgoing(Channel(peer), packets()).start if what == "send" else P2PIncoming(Channel(peer), packets()).post
    )
    with pytest.raises(PeerError, match=r"stage 1, tick 3, .* stage 2: the connection broke"):
        start(3)


def test_other_torch_errors_are_not_peer_errors() -> None:
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x6 and 5x5)"))


def test_over_an_edge_of_several_ticks_receives_are_posted_as_far_ahead_as_there_are_packets() -> None:
    group, ticks = Group(), 3
    own = [Packet((2, 3)) for _ in range(2 * ticks)]
    incoming = P2PIncoming(Channel(peer_of(group)), own)
    incoming.begin(first=5)
    incoming.post(5)
    assert group.log == ["recv 0", "recv 1", "recv 2"]
    incoming.post(6)
    incoming.post(7)  # the receiver is at tick 4, and reads nothing yet
    assert group.log == [f"recv {n}" for n in range(2 * ticks - 1)]
    read = []
    for tick in range(5, 20):
        incoming.wait(tick)
        read.append(incoming.packet(tick).buffer)
        incoming.post(tick + ticks)
        assert all(buffer is not read[-1] for buffer in group.buffers[tick - 4 :])  # it is being read
    assert all(buffer is posted for buffer, posted in zip(read, group.buffers, strict=False))


def test_receives_that_nothing_was_sent_for_are_the_first_of_the_next_phase() -> None:
    group, ticks, frames = Group(), 3, 7
    incoming = P2PIncoming(Channel(peer_of(group)), [Packet((2, 3)) for _ in range(2 * ticks)])
    received = []
    for _ in range(3):
        incoming.begin(first=ticks)
        for tick in range(frames + ticks):
            if tick >= ticks:
                incoming.wait(tick)
                received.append(incoming.packet(tick).buffer)
            if tick < frames + ticks - 1:  # not after the last
                incoming.post(tick + ticks)
    waits = [entry for entry in group.log if entry.startswith("wait")]
    assert waits == [f"wait recv {number}" for number in range(3 * frames)]
    assert all(buffer is posted for buffer, posted in zip(received, group.buffers, strict=False))
