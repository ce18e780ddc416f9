"""Edges in shared memory: packets arrive once and in order, and do not change while they are read."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PeerError
from common.rule.packet import Packet
from common.shared_memory.fd_passing import FdConnection
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges import shared_memory as shared
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.shared_memory import SLOTS, SharedIncoming, SharedOutgoing

FORM = torch.Size((2, 3)), torch.float32


@contextmanager
def edge(deadline: float = 0.05) -> Iterator[tuple[SharedOutgoing, SharedIncoming]]:
    """The ends of an edge, in stage 0 and in stage 1."""
    below, above = socket.socketpair()
    with below, above:
        out = shared.offer_edge(FdConnection(below, "stage 1", 5), "forward", FORM, 0, 1, deadline)
        incoming = shared.accept_edge(FdConnection(above, "stage 0", 5), "forward", FORM, 1, 0, deadline)
    yield out, incoming
    out.close()
    incoming.close()


def sending(out: SharedOutgoing) -> Sender:
    return Sender(out, WorkClock(), Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT)


def receiving(incoming: SharedIncoming, first: int = 1) -> Receiver:
    return Receiver(incoming, 1, 0, first, WorkClock(), Kind.WAIT_ACTIVATION)


def made(tick: int) -> tuple[Packet, torch.Tensor]:
    """The packet and the tensor that a stage sends at a tick."""
    source = Packet(*FORM)
    source.set_header(tick, 100 + tick)
    source.clips[:] = tick
    return source, torch.full(FORM[0], float(tick))


def holds(packet: Packet | None, tick: int) -> bool:
    return (
        packet is not None
        and packet.tick == tick
        and bool((packet.tensor == tick).all() and packet.frame == 100 + tick)
    )


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_the_faster_side_waits_and_no_packet_is_overwritten_while_it_is_read(turns: list[bool], first: int) -> None:
    with edge(deadline=0.001) as (out, incoming):
        sender, receiver = sending(out), receiving(incoming, first)
        receiver.receive(first - 1)
        sent, received, reading = first - 1, first, None
        for sends_now in turns:
            if sends_now and sent - received < SLOTS - 2:
                sender.send(sent, *made(sent))
                sent += 1
            elif sends_now:  # the receiver holds two of the slots
                with pytest.raises(PeerError, match=r"stage 0, tick \d+, sending to stage 1: no progress"):
                    sender.send(sent, *made(-1))
            elif received > sent:
                with pytest.raises(PeerError, match=f"stage 1, tick {received}, receiving from stage 0: no progress"):
                    receiver.receive(received)
            else:
                reading = receiver.receive(received)
                received += 1
            assert reading is None or holds(reading, received - 2)


def test_nothing_is_copied() -> None:
    with edge() as (out, incoming):
        for tick in range(1, 2 * SLOTS):
            out.packets[tick % SLOTS].tensor.fill_(tick)
            assert (incoming.packets[(tick + 1) % SLOTS].tensor == tick).all()
            assert out.packets[tick % SLOTS].tensor.data_ptr() % 64 == 0


def test_consecutive_phases_transfer_every_packet() -> None:
    with edge() as (out, incoming):
        for _ in range(3):
            sender, receiver = sending(out), receiving(incoming, 1)
            receiver.receive(0)
            for tick in range(5):
                source, tensor = made(tick)
                source.set_header(tick, 100 + tick, last=tick == 4)
                sender.send(tick, source, tensor)
                assert holds(receiver.receive(tick + 1), tick)
            sender.settle(4)


def test_packets_in_flight_can_be_saved_and_restored() -> None:
    with edge() as (out, incoming), edge() as (again, there):
        sender, receiver = sending(out), receiving(incoming, 1)
        receiver.receive(0)
        sender.send(0, *made(0))
        receiver.receive(1)
        sender.send(1, *made(1))
        receiver.settle(2)
        message = receiver.waiting(2).clone()
        sender, receiver = sending(again), receiving(there, 1)
        receiver.put(2, message)
        for tick in range(2, 9):
            sender.send(tick, *made(tick))
            assert holds(receiver.receive(tick), tick - 1)


@pytest.mark.parametrize("unread", [False, True])
def test_a_lost_neighbour_is_reported_at_once(unread: bool) -> None:
    with edge(deadline=60) as (out, incoming):
        sender, receiver = sending(out), receiving(incoming, 1)
        receiver.receive(0)
        if unread:
            sender.send(0, *made(0))
        out.close()
        if unread:
            receiver._incoming.wait(1)  # what was sent before can still be received
        with pytest.raises(PeerError, match="stage 1, tick 1, receiving from stage 0: the connection broke"):
            receiver.receive(1)
    with edge(deadline=60) as (out, incoming):
        sender = sending(out)
        incoming.close()
        with pytest.raises(PeerError, match="stage 0, tick 0, sending to stage 1: the connection broke"):
            sender.send(0, *made(0))
