"""Connects a stage's edges: over shared memory between stages of one host, otherwise over gloo or NCCL."""

from collections.abc import Iterator
from typing import Literal

import torch

from common.config.settings import Config
from common.errors import ConfigError
from common.messages.stage_calls import BUILDING
from common.processes.membership import Membership
from common.rule.packet import Packet
from common.shared_memory.fd_passing import FdConnection, FdListener, connect
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges import shared_memory as shared
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.handshake import TensorSpec
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.torch_p2p import P2PIncoming, P2POutgoing, Peer

EdgeKind = Literal["forward", "backward", "evaluation"]  # evaluation's own: training packets may be in flight

_RECEIVING = {
    "forward": Kind.WAIT_ACTIVATION,
    "backward": Kind.WAIT_GRADIENT,
    "evaluation": Kind.WAIT_ACTIVATION,
}
_SENDING = {
    "forward": (Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT),
    "backward": (Kind.SEND_GRADIENT, Kind.WAIT_GRADIENT_SENT),
    "evaluation": (Kind.SEND_ACTIVATION, Kind.WAIT_ACTIVATION_SENT),
}


class Edges:
    """A stage's edges. Both ends of an edge must be created with the same settings."""

    def __init__(
        self,
        config: Config,
        me: Membership,
        groups: Groups,
        specs: tuple[TensorSpec, TensorSpec],
        devices: tuple[torch.device, torch.device],
        work: WorkClock,
    ) -> None:
        """Create the shared-memory edges and the process groups. Every stage must call it.

        Args:
            specs: shape and dtype of the stage's input and output.
            devices: the device that computes, and that of the transfer buffers.
            work: the time spent sending and waiting is added to it.

        Raises:
            ConfigError: network.transport = "shared" is not possible.
            PeerError: a neighbour does not answer.
        """
        self._config, self._me, self._groups = config, me, groups
        self._input_spec, self._output_spec = specs
        self._device, self._wire = devices
        self._work = work
        # longer than stage 0's wait for frames, so that a slow reader is reported as such and not as a stuck stage
        self._deadline = 1.25 * config.network.deadline
        i = me.stage
        for neighbour in (i - 1, i + 1):
            if config.network.transport == "shared" and 0 <= neighbour < me.stages:
                self._check(neighbour)
        self._form_groups()
        if self._shares and not groups.connections:
            groups.connections.update(_connect_neighbours(me, self._deadline + BUILDING))  # may still be building
        # every edge is offered before any is accepted, so that no two neighbours wait for each other
        self._out = {
            kind: shared.offer_edge(groups.connections[to], kind, self._spec(to), i, to, self._deadline)
            for kind, to in self._kinds(i + 1, i - 1)
        }
        self._in = {
            kind: shared.accept_edge(groups.connections[of], kind, self._spec(of), i, of, self._deadline)
            for kind, of in self._kinds(i - 1, i + 1)
        }

    def sender(self, kind: EdgeKind) -> Sender:
        """The end that sends activations up or gradients down."""
        neighbour = self._me.stage + (-1 if kind == "backward" else 1)
        outgoing = self._out.get(kind) or P2POutgoing(self._peer(kind, neighbour), self._packets(neighbour))
        return Sender(outgoing, self._work, *_SENDING[kind])

    def receiver(self, kind: EdgeKind, first_tick: int) -> Receiver:
        """The end that receives activations or gradients, from `first_tick` on."""
        neighbour = self._me.stage + (1 if kind == "backward" else -1)
        incoming = self._in.get(kind) or P2PIncoming(self._peer(kind, neighbour), self._packets(neighbour))
        return Receiver(incoming, self._me.stage, neighbour, first_tick, self._work, _RECEIVING[kind])

    def close(self) -> None:
        """Close the shared-memory edges."""
        for end in (*self._out.values(), *self._in.values()):
            end.close()

    def _form_groups(self) -> None:
        """Form the process groups that any stage needs. All stages must take part in the same order."""
        if self._config.exact:
            self._groups.form_pipeline()
        elif not (self._shares and len(self._me.stages_on_host) == self._me.stages):
            self._groups.form_backward()

    def _kinds(self, forward: int, backward: int) -> Iterator[tuple[EdgeKind, int]]:
        """The kinds of edges over shared memory, each with its neighbour, which is `forward` or `backward`."""
        kinds: list[tuple[EdgeKind, int]] = [("forward", forward), ("backward", backward), ("evaluation", forward)]
        for kind, neighbour in kinds:
            used = kind == "evaluation" or not self._config.exact  # torch's schedules have connections of their own
            if used and self._is_shared(neighbour):
                yield kind, neighbour

    def _is_shared(self, neighbour: int) -> bool:
        return self._shares and neighbour in self._me.stages_on_host

    @property
    def _shares(self) -> bool:
        return self._config.network.transport in ("auto", "shared") and self._device.type == "cpu"

    def _check(self, neighbour: int) -> None:
        if not self._is_shared(neighbour):
            raise ConfigError(
                'network.transport = "shared" needs all stages on one host and on the CPU, but stages '
                f'{self._me.stage} and {neighbour} are not: use "auto", which shares memory where possible'
            )

    def _peer(self, kind: EdgeKind, neighbour: int) -> Peer:
        group = self._groups.backward if kind == "backward" else self._groups.forward
        return Peer(group, self._me.stage, neighbour, self._deadline, tag=int(kind == "evaluation"))

    def _spec(self, neighbour: int) -> TensorSpec:
        return self._input_spec if neighbour < self._me.stage else self._output_spec

    def _packets(self, neighbour: int) -> list[Packet]:
        shape, dtype = self._spec(neighbour)
        return [Packet(shape, dtype, self._device, self._wire) for _ in range(2)]


def _connect_neighbours(me: Membership, deadline: float) -> dict[int, FdConnection]:
    """Connect to the neighbours on this host, which must call it too. Returns the connections by stage."""
    connections, below, above = {}, me.stage - 1, me.stage + 1
    listener = FdListener() if above in me.stages_on_host else None
    if listener:
        me.store.set(_listener_key(me.stage), listener.name)
    if below in me.stages_on_host:
        name = me.fetch(_listener_key(below), f"stage {below}")
        connections[below] = connect(name, f"stage {below}", deadline)
    if listener:
        connections[above] = listener.accept(f"stage {above}", deadline)
    return connections


def _listener_key(stage: int) -> str:
    """Key in the launcher's store under which a stage publishes its listener's name."""
    return f"listener/{stage}"
