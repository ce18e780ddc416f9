"""Edges in GPU memory: streams wait where hosts do not, so nothing is read early, or overwritten while it is read."""

import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue

import pytest
import torch

from common.models.shapes import TensorSpec
from common.rule.packet import Packet
from common.shared_memory.fd_passing import FdConnection
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges import device_memory
from stage_worker.edges.cuda_ipc import CudaIpc
from stage_worker.edges.device_memory import DeviceIncoming, DeviceOutgoing, Ipc
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.links import EdgeEnd
from stage_worker.edges.shared_memory import slots_of
from tests.support.fake_ipc import DelayedIpc, HostIpc

SPEC = torch.Size((2, 3)), torch.float32
CPU = torch.device("cpu")


def end(stage: int, ticks: int = 1, deadline: float = 0.2, spec: TensorSpec = SPEC, last: bool = False) -> EdgeEnd:
    return EdgeEnd("forward", spec, stage, 1 - stage, deadline, ticks, channels_last=last)


@contextmanager
def edge(
    ipc: Ipc, copies: bool = False, ticks: int = 1, spec: TensorSpec = SPEC, last: bool = False
) -> Iterator[tuple[DeviceOutgoing, DeviceIncoming]]:
    """Both ends, of stage 0 and of stage 1. `last`: channels_last."""
    below, above = socket.socketpair()
    with below, above:
        to_above, to_below = FdConnection(below, "stage 1", 5), FdConnection(above, "stage 0", 5)
        out = device_memory.offer_edge(to_above, end(0, ticks, spec=spec, last=last), CPU, ipc)
        assert isinstance(out, DeviceOutgoing)
        copy_to = CPU if copies else None
        incoming = device_memory.accept_edge(to_below, end(1, ticks, spec=spec, last=last), ipc, copy_to)
        assert isinstance(incoming, DeviceIncoming)
        assert out.complete(to_above, "forward", ipc) is None
    yield out, incoming
    out.close()
    incoming.close()


def ends(out: DeviceOutgoing, incoming: DeviceIncoming, ticks: int = 1) -> tuple[Sender, Receiver]:
    work = WorkClock()
    sender = Sender(out, work, Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT)
    return sender, Receiver(incoming, 1, 0, ticks, work, Kind.WAIT_ACTIVATION, ticks)


def send(sender: Sender, tick: int) -> None:
    source = Packet(*SPEC)
    source.set_header(tick, 100 + tick)
    source.clips[:] = tick
    sender.send(tick, source, torch.full(SPEC[0], float(tick)))


def holds(packet: Packet | None, tick: int) -> bool:
    assert packet is not None
    return packet.frame == 100 + tick and packet.clips.tolist() == [tick] * 2 and bool((packet.tensor == tick).all())


@pytest.mark.parametrize("ticks", [1, 3])
@pytest.mark.parametrize("copies", [False, True])
def test_a_stream_waits_for_what_is_written_and_no_longer_reads_what_it_gave_back(copies: bool, ticks: int) -> None:
    ipc = DelayedIpc()
    with edge(ipc, copies, ticks) as (out, incoming):
        sender, receiver = ends(out, incoming, ticks)
        for tick in range(3 * slots_of(ticks)):
            packet = receiver.receive(tick)
            assert (packet is None) == (tick < ticks)
            assert packet is None or holds(packet, tick - ticks)
            send(sender, tick)
            assert packet is None or holds(packet, tick - ticks)  # valid until the next receive
    assert [event.recorded for event in ipc.written] == [3] * slots_of(ticks)
    assert all(event.waited for event in ipc.read)


@pytest.mark.parametrize("copies", [False, True])
def test_maps_pass_in_channels_last(copies: bool) -> None:
    spec, sent = (torch.Size((2, 3, 4, 5)), torch.float32), torch.randn(2, 3, 4, 5)
    with edge(DelayedIpc(), copies, spec=spec, last=True) as (out, incoming):
        sender, receiver = ends(out, incoming)
        receiver.receive(0)
        sender.send(0, Packet(*spec), sent)
        packet = receiver.receive(1)
    assert packet is not None
    assert torch.equal(packet.tensor, sent)
    assert all(own.tensor.is_contiguous(memory_format=torch.channels_last) for own in (packet, *out.packets))


def test_a_packet_is_not_read_before_its_stream_has_waited() -> None:
    """So the test above would find a receiver that does not wait."""
    ipc = DelayedIpc()
    with edge(ipc) as (out, incoming):
        sender, receiver = ends(out, incoming)
        receiver.receive(0)
        send(sender, 0)
        for event in ipc.written:
            event.on_wait = None
        packet = receiver.receive(1)
        assert packet is not None
        assert bool(packet.tensor.isnan().all())


def test_memory_that_cannot_be_opened_is_said_on_both_sides() -> None:
    ipc, (below, above) = DelayedIpc(refuses="invalid device context\nmore"), socket.socketpair()
    with below, above:
        to_above, to_below = FdConnection(below, "stage 1", 5), FdConnection(above, "stage 0", 5)
        out = device_memory.offer_edge(to_above, end(0), CPU, ipc)
        assert isinstance(out, DeviceOutgoing)
        assert device_memory.accept_edge(to_below, end(1), ipc) == "invalid device context"
        assert out.complete(to_above, "forward", ipc) == "invalid device context"
        out.close()


def test_memory_that_cannot_be_described_is_said_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    ipc, (below, above) = HostIpc(), socket.socketpair()

    def fail(_: object) -> str:
        raise RuntimeError("operation not supported\nmore")

    monkeypatch.setattr(ipc, "describe_memory", fail)
    with below, above:
        to_above, to_below = FdConnection(below, "stage 1", 5), FdConnection(above, "stage 0", 5)
        offered = device_memory.offer_edge(to_above, end(0), CPU, ipc)
        accepted = device_memory.accept_edge(to_below, end(1), ipc)
        assert offered == accepted == "operation not supported"


def test_what_is_in_flight_is_kept_and_put_back() -> None:
    with edge(HostIpc()) as (out, incoming), edge(HostIpc()) as (again, there):
        sender, receiver = ends(out, incoming)
        receiver.receive(0)
        send(sender, 0)
        receiver.receive(1)
        send(sender, 1)
        receiver.settle(2)
        message = receiver.waiting(2).clone()
        sender, receiver = ends(again, there)
        receiver.put(2, message)
        for tick in range(2, 9):
            send(sender, tick)
            assert holds(receiver.receive(tick), tick - 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("copies", [False, True])
def test_two_processes_share_a_gpus_memory(copies: bool) -> None:
    """By CUDA IPC: every value of many ticks arrives, with nobody waiting on the host for the GPU."""
    device, ticks = torch.device("cuda", 0), 200
    torch.cuda.set_device(device)
    ipc = CudaIpc(device)
    below, above = socket.socketpair()
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_receive_all, args=(Connection(above.detach()), ticks, copies, results), daemon=True)
    child.start()
    with below:
        to_above = FdConnection(below, "stage 1", 60)
        out = device_memory.offer_edge(to_above, end(0, deadline=60), device, ipc)
        assert isinstance(out, DeviceOutgoing)
        assert out.complete(to_above, "forward", ipc) is None
        sender = Sender(out, WorkClock(), Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT)
        for tick in range(ticks):
            source = Packet(*SPEC, device)
            source.set_header(tick, tick)
            sender.send(tick, source, torch.full(SPEC[0], float(tick), device=device))
        child.join(60)
        assert results.get() == [tick * SPEC[0].numel() for tick in range(ticks)]
        out.close()


def _receive_all(connection: Connection, ticks: int, copies: bool, results: "SimpleQueue[list[float]]") -> None:
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    with socket.socket(fileno=os.dup(connection.fileno())) as to_below:
        incoming = device_memory.accept_edge(
            FdConnection(to_below, "stage 0", 60),
            end(1, deadline=60),
            CudaIpc(device),
            device if copies else None,
        )
        assert isinstance(incoming, DeviceIncoming), incoming
        receiver = Receiver(incoming, 1, 0, 1, WorkClock(), Kind.WAIT_ACTIVATION)
        sums = []
        receiver.receive(0)
        for tick in range(1, ticks + 1):
            packet = receiver.receive(tick)
            assert packet is not None
            sums.append(packet.tensor.sum())
        results.put([float(value) for value in sums])
