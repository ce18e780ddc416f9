"""Edges in shared memory: what is sent arrives, once, in order, and stays as it is while it is read."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, PeerError
from common.rule.packet import Packet
from common.shared_memory.fd_passing import FdConnection, FdListener, connect
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges import shared_memory as shared
from stage_worker.edges.connect import Edges
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.shared_memory import SLOTS, SharedIncoming, SharedOutgoing
from tests.support.settings import config_of

FORM = torch.Size((2, 3)), torch.float32


@contextmanager
def edge(deadline: float = 0.05) -> Iterator[tuple[SharedOutgoing, SharedIncoming]]:
    """Both ends, of stage 0 and of stage 1."""
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
    """What a stage sends at a tick."""
    source = Packet(*FORM)
    source.label(tick, 100 + tick)
    source.clips[:] = tick
    return source, torch.full(FORM[0], float(tick))


def holds(packet: Packet | None, tick: int) -> bool:
    return (
        packet is not None
        and packet.tick == tick
        and bool((packet.tensor == tick).all() and packet.frame == 100 + tick)
    )


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_whoever_is_faster_waits_and_nothing_is_overwritten_that_is_read(turns: list[bool], first: int) -> None:
    with edge(deadline=0.001) as (out, incoming):
        sender, receiver = sending(out), receiving(incoming, first)
        receiver.receive(first - 1)
        sent, received, reading = first - 1, first, None
        for sends_now in turns:
            if sends_now and sent - received < SLOTS - 2:
                sender.send(sent, *made(sent))
                sent += 1
            elif sends_now:  # two of the slots are the receiver's
                with pytest.raises(PeerError, match=r"stage 0, tick \d+, sending to stage 1: nothing moved"):
                    sender.send(sent, *made(-1))
            elif received > sent:
                with pytest.raises(PeerError, match=f"stage 1, tick {received}, receiving from stage 0: nothing moved"):
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


def test_a_phase_after_another_finds_all_as_it_was() -> None:
    with edge() as (out, incoming):
        for _ in range(3):
            sender, receiver = sending(out), receiving(incoming, 1)
            receiver.receive(0)
            for tick in range(5):
                source, tensor = made(tick)
                source.label(tick, 100 + tick, last=tick == 4)
                sender.send(tick, source, tensor)
                assert holds(receiver.receive(tick + 1), tick)
            sender.settle(4)


def test_what_is_under_way_is_kept_and_put_back() -> None:
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
def test_a_neighbour_that_has_gone_is_told_at_once(unread: bool) -> None:
    with edge(deadline=60) as (out, incoming):
        sender, receiver = sending(out), receiving(incoming, 1)
        receiver.receive(0)
        if unread:
            sender.send(0, *made(0))
        out.close()
        if unread:
            receiver._incoming.wait(1)  # what came before still counts
        with pytest.raises(PeerError, match="stage 1, tick 1, receiving from stage 0: the connection broke"):
            receiver.receive(1)
    with edge(deadline=60) as (out, incoming):
        sender = sending(out)
        incoming.close()
        with pytest.raises(PeerError, match="stage 0, tick 0, sending to stage 1: the connection broke"):
            sender.send(0, *made(0))


def test_stages_of_a_host_find_each_other() -> None:
    listener = FdListener()
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    (passed,) = above.receive_files("forward", 1)
    os.write(passed, b"x")
    assert os.read(reading, 2) == b"x"
    below.send_files("forward", [writing])
    with pytest.raises(
        PeerError, match="stage 0, a neighbour on this host, gives 1 files for b'forward' where 'evaluat"
    ):
        above.receive_files("evaluation", 1)
    for file in (reading, writing, passed):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_s_process_is_not_let_in_and_keeps_nobody_out() -> None:
    listener = FdListener()
    _come_as_nobody(listener)
    above = connect(listener.name, "stage 0", 5)
    below = listener.accept("stage 1", 5)
    reading, writing = os.pipe()
    below.send_files("forward", [writing])
    for file in (reading, writing, *above.receive_files("forward", 1)):
        os.close(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_where_only_another_user_s_process_comes_that_is_told() -> None:
    listener = FdListener()
    _come_as_nobody(listener)
    with pytest.raises(
        PeerError, match="a process of user 65534 speaks for stage 1 on this host, and this one is user 0"
    ):
        listener.accept("stage 1", 0.1)


def _come_as_nobody(listener: FdListener) -> None:
    connect = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect('\\0{listener.name}')"
    subprocess.run([sys.executable, "-c", connect], check=True)


def unanswered() -> None:
    FdListener().accept("stage 1", 0.01)


def unheard() -> None:
    connect("sideways-nobody", "stage 0", 5)


def silent() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        FdConnection(ours, "stage 0", 0.01).receive_files("forward", 1)


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (unanswered, "stage 1, on this host, does not connect: timed out"),
        (unheard, "stage 0, on this host, cannot be reached over a Unix socket: .*set network.transport"),
        (silent, "stage 0, a neighbour on this host, gives no files: timed out"),
    ],
)
def test_one_that_does_not_answer_is_named(attempt: Callable[[], None], told: str) -> None:
    with pytest.raises(PeerError, match=told):
        attempt()


def test_shared_memory_between_hosts_is_refused(tmp_path: Path) -> None:
    me, apart = SimpleNamespace(stage=0, stages=2, stages_on_host={0}), SimpleNamespace(lines={})
    config, devices = config_of(tmp_path, network__transport="shared"), (torch.device("cpu"),) * 2
    with pytest.raises(ConfigError, match="needs all stages on one host and on the CPU, but stages 0 and 1 are not"):
        Edges(config, me, apart, (FORM, FORM), devices, WorkClock())  # type: ignore[arg-type]


def test_with_gloo_neighbours_on_a_host_need_not_find_each_other(tmp_path: Path) -> None:
    """It is what the user is told to choose where they cannot."""
    me, groups = SimpleNamespace(stage=0, stages=2, stages_on_host={0, 1}), SimpleNamespace(lines={}, backward=None)
    config, devices = config_of(tmp_path, network__transport="gloo"), (torch.device("cpu"),) * 2
    Edges(config, me, groups, (FORM, FORM), devices, WorkClock())  # type: ignore[arg-type]
    assert not groups.lines
