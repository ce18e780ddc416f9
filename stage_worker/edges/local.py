"""An edge between two stages that one process holds: packets that both use, without a transfer.

Within a tick the stages of a process compute one after another, so nobody waits on the host. On a GPU each stage has a
stream of its own, and the streams wait for each other by events, as in device_memory.py. An edge of d ticks has d + 2
slots: when the lower stage sends at tick k, the upper one has not yet said that it is done with what it got at k - 1.
"""

from collections.abc import Sequence

import torch

from common.models.shapes import TensorSpec
from common.rule.label_form import LabelForm
from common.rule.packet import Packet
from stage_worker.edges.device_memory import Event


class LocalEdge:
    """One direction of an edge: both of its ends.

    Attributes:
        packets: what is sent at tick k is in `packets[k % len(packets)]`.
        ticks: of the edge.
        written, read: for each packet, that it is written, and that it was read; empty on the CPU.
    """

    def __init__(
        self, spec: TensorSpec, ticks: int, labels: LabelForm, device: torch.device, channels_last: bool = False
    ) -> None:
        packets = range(ticks + 2)
        self.packets = [Packet(*spec, device, labels=labels, channels_last=channels_last) for _ in packets]
        self.ticks = ticks
        self.written: Sequence[Event] = self._events(device)
        self.read: Sequence[Event] = self._events(device)

    def _events(self, device: torch.device) -> Sequence[Event]:
        if device == torch.device("cpu"):
            return ()
        module = torch.get_device_module(device)
        return [module.Event() for _ in self.packets]


class LocalOutgoing:
    """The sending end."""

    def __init__(self, edge: LocalEdge) -> None:
        self.packets: Sequence[Packet] = edge.packets
        self._edge = edge

    def room(self, tick: int) -> None:
        """Let the stream wait until this tick's packet was read."""
        if self._edge.read:
            self._edge.read[tick % len(self.packets)].wait()

    def start(self, tick: int) -> None:
        """This tick's packet is written."""
        if self._edge.written:
            self._edge.written[tick % len(self.packets)].record()

    def finish(self, tick: int) -> None:
        """Do nothing: a written packet needs no transfer."""


class LocalIncoming:
    """The receiving end."""

    def __init__(self, edge: LocalEdge) -> None:
        self._edge = edge

    def begin(self, first: int) -> None:
        """Do nothing: nothing is posted ahead."""

    def packet(self, tick: int) -> Packet:
        """The packet for the message for `tick`."""
        return self._edge.packets[self._slot(tick)]

    def post(self, tick: int) -> None:
        """The packet read before is no longer needed."""
        if self._edge.read:
            self._edge.read[self._slot(tick - self._edge.ticks - 1)].record()

    def wait(self, tick: int) -> None:
        """Let the stream wait until this tick's packet is written."""
        if self._edge.written:
            self._edge.written[self._slot(tick)].wait()

    def _slot(self, tick: int) -> int:
        return (tick - self._edge.ticks) % len(self._edge.packets)
