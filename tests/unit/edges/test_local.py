"""An edge within a process, whose two ends are on streams of their own that run as late as they may."""

import pytest
import torch

from common.rule.label_form import ONE_CLASS
from common.rule.packet import Packet
from stage_worker.edges.local import LocalEdge, LocalIncoming, LocalOutgoing
from tests.support.fake_ipc import DelayedEvent

SPEC = torch.Size((2, 3)), torch.float32


class Late(LocalEdge):
    """The tensors are written only when the reader waits for it, and spoilt as soon as they may be overwritten."""

    def __init__(self, ticks: int) -> None:
        super().__init__(SPEC, ticks, ONE_CLASS, torch.device("cpu"))
        self.values = [torch.zeros(SPEC[0]) for _ in self.packets]
        self.written = [DelayedEvent(on_wait=lambda i=i: self._write(i)) for i in range(len(self.packets))]
        self.read = [DelayedEvent(on_wait=lambda i=i: self._spoil(i)) for i in range(len(self.packets))]

    def _write(self, slot: int) -> None:
        self.packets[slot].tensor.copy_(self.values[slot])

    def _spoil(self, slot: int) -> None:
        self.packets[slot].tensor.fill_(torch.nan)


@pytest.mark.parametrize("ticks", [1, 3])
@pytest.mark.parametrize("upward", [True, False])
def test_what_is_sent_arrives_in_time_and_stays_until_it_was_read(ticks: int, upward: bool) -> None:
    edge = Late(ticks)
    outgoing, incoming = LocalOutgoing(edge), LocalIncoming(edge)
    held: dict[int, Packet] = {}

    def send(tick: int) -> None:
        outgoing.room(tick)
        edge.values[tick % len(edge.packets)].fill_(tick)
        outgoing.packets[tick % len(edge.packets)].set_header(tick, tick)
        outgoing.start(tick)
        outgoing.finish(tick)

    def receive(tick: int) -> None:
        if tick >= ticks:
            incoming.wait(tick)
            held[tick] = incoming.packet(tick)
            incoming.post(tick + ticks)

    for tick in range(20):
        for step in (send, receive) if upward else (receive, send):  # the lower stage computes first
            step(tick)
        if tick >= ticks:
            assert held[tick].tick == tick - ticks
            assert bool((held[tick].tensor == tick - ticks).all()), "its stream still reads it"
    reads = sum(event.recorded for event in edge.read if isinstance(event, DelayedEvent))
    assert reads == 20 - ticks


def test_on_the_cpu_nobody_waits() -> None:
    edge = LocalEdge(SPEC, 1, ONE_CLASS, torch.device("cpu"))
    assert not edge.written
    assert not edge.read
    assert len(LocalEdge(SPEC, 1, ONE_CLASS, torch.device("cpu", 0)).written) == 3


def test_maps_have_the_runs_order_in_memory() -> None:
    spec = torch.Size((2, 3, 4, 5)), torch.float32
    edge = LocalEdge(spec, 1, ONE_CLASS, torch.device("cpu"), channels_last=True)
    assert all(packet.tensor.is_contiguous(memory_format=torch.channels_last) for packet in edge.packets)
