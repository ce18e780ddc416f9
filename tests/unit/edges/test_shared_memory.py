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
from stage_worker.edges.links import EdgeEnd
from stage_worker.edges.shared_memory import SharedIncoming, SharedOutgoing, slots_of

FORM = torch.Size((2, 3)), torch.float32


@contextmanager
def edge(deadline: float = 0.05, ticks: int = 1) -> Iterator[tuple[SharedOutgoing, SharedIncoming]]:
    """The ends of an edge, in stage 0 and in stage 1."""
    below, above = socket.socketpair()
    with below, above:
        out = shared.offer_edge(FdConnection(below, "stage 1", 5), EdgeEnd("forward", FORM, 0, 1, deadline, ticks))
        incoming = shared.accept_edge(
            FdConnection(above, "stage 0", 5), EdgeEnd("forward", FORM, 1, 0, deadline, ticks)
        )
    yield out, incoming
    out.close()
    incoming.close()


def sending(out: SharedOutgoing) -> Sender:
    return Sender(out, WorkClock(), Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT)


def receiving(incoming: SharedIncoming, first: int = 1, ticks: int = 1) -> Receiver:
    return Receiver(incoming, 1, 0, first, WorkClock(), Kind.WAIT_ACTIVATION, ticks)


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


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 8), st.integers(1, 4))
def test_the_faster_side_waits_and_no_packet_is_overwritten_while_it_is_read(
    turns: list[bool], begins: int, ticks: int
) -> None:
    with edge(deadline=0.001, ticks=ticks) as (out, incoming):
        sender, receiver = sending(out), receiving(incoming, begins + ticks, ticks)
        for tick in range(begins, begins + ticks):
            assert receiver.receive(tick) is None
        sent, received, reading = begins, begins + ticks, None
        for sends_now in turns:
            if sends_now and sent - received < slots_of(ticks) - 1 - ticks:
                sender.send(sent, *made(sent))
                sent += 1
            elif sends_now:  # the receiver still holds a slot
                with pytest.raises(PeerError, match=r"stage 0, tick \d+, sending to stage 1: no progress"):
                    sender.send(sent, *made(-1))
            elif received >= sent + ticks:
                with pytest.raises(PeerError, match=f"stage 1, tick {received}, receiving from stage 0: no progress"):
                    receiver.receive(received)
            else:
                reading = receiver.receive(received)
                received += 1
            assert reading is None or holds(reading, received - 1 - ticks)


def test_nothing_is_copied() -> None:
    with edge() as (out, incoming):
        for tick in range(1, 2 * slots_of(1)):
            sent = out.packets[tick % slots_of(1)].tensor.fill_(tick)
            assert (incoming.packet(tick + 1).tensor == tick).all()
            assert sent.data_ptr() % 64 == 0


@pytest.mark.parametrize("ticks", [1, 2, 5])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_consecutive_phases_transfer_every_packet_and_let_none_be_overwritten(frames: int, ticks: int) -> None:
    with edge(deadline=0.001, ticks=ticks) as (out, incoming):
        for _ in range(4):
            sender, receiver = sending(out), receiving(incoming, ticks, ticks)
            sent = 0
            for tick in range(frames + ticks):
                packet = receiver.receive(tick)
                while sent < frames:  # as far ahead as there is room
                    source, tensor = made(sent)
                    source.set_header(sent, 100 + sent, last=sent == frames - 1)
                    try:
                        sender.send(sent, source, tensor)
                    except PeerError:
                        break
                    sent += 1
                assert packet is None if tick < ticks else holds(packet, tick - ticks)
            sender.settle(frames - 1)
            receiver.settle(frames + ticks)


@pytest.mark.parametrize("ticks", [1, 3])
@pytest.mark.parametrize("now", [1, 2, 3, 8])
def test_packets_in_flight_can_be_saved_and_restored(now: int, ticks: int) -> None:
    with edge(ticks=ticks) as (out, incoming), edge(ticks=ticks) as (again, there):
        sender, receiver = sending(out), receiving(incoming, ticks, ticks)
        for tick in range(now):
            receiver.receive(tick)
            sender.send(tick, *made(tick))
        receiver.settle(now)
        messages = {tick: receiver.waiting(tick).clone() for tick in receiver.messages(now)}
        assert sorted(messages) == list(range(max(now, ticks), now + ticks))
        sender, receiver = sending(again), receiving(there, ticks, ticks)
        for tick, message in messages.items():
            receiver.put(tick, message)
        for tick in range(now, now + 3 * slots_of(ticks)):
            packet = receiver.receive(tick)
            assert packet is None if tick < ticks else holds(packet, tick - ticks)
            sender.send(tick, *made(tick))


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
