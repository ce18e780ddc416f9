"""Connects a stage's edges, each over the transport that fits (transport.py)."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch

from common.config.settings import Config
from common.messages.stage_calls import BUILDING
from common.processes.membership import Membership
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.packet import Packet, StagedPacket
from common.rule.wire import Wire, decoder_of, encoder_of, wire_spec
from common.shared_memory.fd_passing import FdConnection, FdListener, connect
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges import device_memory, shared_memory
from stage_worker.edges.device_memory import DeviceIncoming, DeviceOutgoing, Ipc
from stage_worker.edges.ends import Receiver, Sender
from stage_worker.edges.links import Links, TensorSpec
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.shared_memory import SharedIncoming, SharedOutgoing
from stage_worker.edges.torch_p2p import Channel, DevicePeer, P2PIncoming, P2POutgoing, Peer
from stage_worker.edges.transfer_watchdog import TransferWatchdog
from stage_worker.edges.transport import Place, Transport, choose, on_cpu, uses_nccl

EdgeKind = Literal["forward", "backward", "evaluation"]  # evaluation's own: training packets may be in flight
Edge = tuple[EdgeKind, int]  # with the stage at its other end

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
_TAGS = 4  # a run's messages over gloo have tags of their own; those below are for before the first run
_MAPPED: tuple[Transport, ...] = ("shared", "device")


class Edges:
    """A stage's edges. Both ends of an edge must be created with the same settings."""

    def __init__(
        self,
        config: Config,
        me: Membership,
        groups: Groups,
        links: Links,
        device: torch.device,
        gpus: dict[int, int | None],
        work: WorkClock,
        labels: LabelForm = ONE_CLASS,
    ) -> None:
        """Create the process groups, and the edges in memory that both ends map. Every stage must call it.

        Args:
            links: the stage's edges.
            device: on which it computes.
            gpus: UUIDs of the GPUs of this stage and its partners, by stage; None on the CPU.
            work: the time spent sending and waiting is added to it.
            labels: form of the rows' labels.

        Raises:
            ConfigError: network.transport is not possible.
            PeerError: a partner does not answer.
        """
        self._config, self._me, self._groups, self._links = config, me, groups, links
        self._device, self._gpus, self._work, self._labels = device, gpus, work, labels
        self._make = partial(Packet, device=device, labels=labels)
        # longer than stage 0's wait for frames, so that a slow reader is reported as such and not as a stuck stage
        self._deadline = 1.25 * config.network.deadline
        self._nccl = uses_nccl(config, me)
        self._transports = {partner: self._choose(partner) for partner in links.partners}
        self._watchdog = TransferWatchdog()
        self._channels: dict[Edge, Channel] = {}
        groups.run += 1
        self._form_groups()
        if config.network.transport in ("auto", "shared"):
            _connect(me, links, groups.connections, self._deadline + BUILDING)  # the others may still be building
        self._in: dict[Edge, SharedIncoming | P2PIncoming] = {}
        self._out: dict[Edge, SharedOutgoing] = {}
        self._map_edges()

    def sender(self, kind: EdgeKind, to: int) -> Sender:
        """The end that sends activations up or gradients down, to a partner."""
        ticks = self._links.ticks[to]
        outgoing = self._out.get((kind, to)) or P2POutgoing(self._channel(kind, to), self._packets(kind, to, ticks + 1))
        encoder = encoder_of(self._wire(kind), self._links.partners[to], self._make)
        return Sender(outgoing, self._work, *_SENDING[kind], encoder)

    def receiver(self, kind: EdgeKind, of: int, first_tick: int) -> Receiver:
        """The end that receives activations or gradients of a partner, from `first_tick` on."""
        ticks = self._links.ticks[of]
        if (kind, of) not in self._in:
            self._in[kind, of] = P2PIncoming(self._channel(kind, of), self._packets(kind, of, 2 * ticks))
        incoming, wait = self._in[kind, of], _RECEIVING[kind]
        decoder = decoder_of(self._wire(kind), self._links.partners[of], self._make)
        return Receiver(incoming, self._me.stage, of, first_tick, self._work, wait, ticks, decoder)

    def close(self) -> None:
        """Close the edges in mapped memory, and end the watchdog."""
        self._watchdog.close()
        for end in (*self._out.values(), *self._in.values()):
            end.close()

    def _choose(self, neighbour: int) -> Transport:
        edge = min(self._me.stage, neighbour), max(self._me.stage, neighbour)
        own = Place(True, self._gpus[self._me.stage])
        other = Place(neighbour in self._me.stages_on_host, self._gpus[neighbour])
        return choose(self._config, edge, own, other, self._nccl)

    def _form_groups(self) -> None:
        """Form the process groups that any stage needs. All stages must take part in the same order."""
        if self._config.exact:
            self._groups.form_pipeline("nccl" if self._device.type == "cuda" else "gloo")
            if self._nccl:  # evaluations have edges of their own
                self._groups.form_nccl()
        elif not (self._maps_all and on_cpu(self._config, self._me)):  # GPUs of one host may turn out to need it
            self._groups.form_backward()
            if self._nccl:
                self._groups.form_nccl()

    @property
    def _maps_all(self) -> bool:
        """Whether all edges of the run are in mapped memory."""
        maps = self._config.network.transport in ("auto", "shared")
        return maps and len(self._me.stages_on_host) == self._me.stages

    # ---- edges in mapped memory

    def _map_edges(self) -> None:
        """Every edge is offered before any is accepted, so that no two stages wait for each other."""
        below, above = tuple(self._links.below), tuple(self._links.above)
        ipc = _ipc(self._device)
        for kind, to in self._kinds(above, below):
            offered = self._offer(kind, to, ipc)
            if isinstance(offered, str):
                self._stage_instead(to, offered)
            else:
                self._out[kind, to] = offered
        for kind, of in self._kinds(below, above):
            accepted = self._accept(kind, of, ipc)
            if isinstance(accepted, str):
                self._stage_instead(of, accepted)
            else:
                self._in[kind, of] = accepted
        for kind, to in self._kinds(above, below):
            outgoing = self._out.get((kind, to))
            if isinstance(outgoing, DeviceOutgoing) and ipc is not None:
                problem = outgoing.complete(self._groups.connections[to], kind, ipc)
                if problem is not None:
                    self._out.pop((kind, to)).close()
                    self._stage_instead(to, problem)

    def _offer(self, kind: EdgeKind, to: int, ipc: Ipc | None) -> SharedOutgoing | str:
        arguments = self._groups.connections[to], kind, self._spec(kind, to), self._me.stage, to, self._deadline
        ticks = self._links.ticks[to]
        if ipc is None:
            return shared_memory.offer_edge(*arguments, ticks, self._labels)
        return device_memory.offer_edge(*arguments, self._device, ipc, ticks, self._labels)

    def _accept(self, kind: EdgeKind, of: int, ipc: Ipc | None) -> SharedIncoming | DeviceIncoming | str:
        arguments = self._groups.connections[of], kind, self._spec(kind, of), self._me.stage, of, self._deadline
        ticks = self._links.ticks[of]
        if ipc is None:
            return shared_memory.accept_edge(*arguments, ticks, self._labels)
        same_gpu = self._gpus[of] == self._gpus[self._me.stage]
        return device_memory.accept_edge(*arguments, ipc, None if same_gpu else self._device, ticks, self._labels)

    def _stage_instead(self, neighbour: int, problem: str) -> None:
        """Leave an edge to gloo, which works everywhere."""
        warnings.warn(
            f"stages {self._me.stage} and {neighbour} cannot share GPU memory ({problem}): tensors go through host "
            "memory, which is slower. In containers, one container with all GPUs of the host avoids this",
            stacklevel=2,
        )

    def _kinds(self, forward: Sequence[int], backward: Sequence[int]) -> Iterator[Edge]:
        """The edges in mapped memory: by kind, with the partners of either direction."""
        kinds: list[tuple[EdgeKind, Sequence[int]]] = [
            ("forward", forward),
            ("backward", backward),
            ("evaluation", forward),
        ]
        for kind, partners in kinds:
            used = kind == "evaluation" or not self._config.exact  # torch's schedules have connections of their own
            for partner in partners if used else ():
                if self._transports[partner] in _MAPPED:
                    yield kind, partner

    # ---- edges over torch.distributed

    def _channel(self, kind: EdgeKind, neighbour: int) -> Channel:
        """The channel of an edge, the same in every phase, as is what the watchdog watches."""
        edge = kind, neighbour
        if edge not in self._channels:
            self._channels[edge] = self._make_channel(kind, neighbour)
        return self._channels[edge]

    def _make_channel(self, kind: EdgeKind, neighbour: int) -> Channel:
        # receives that an earlier run of these processes posted and never used must not take this run's messages
        stage, deadline, tag = self._me.stage, self._deadline, _TAGS * self._groups.run + int(kind == "evaluation")
        group = self._groups.backward if kind == "backward" else self._groups.forward
        host = Peer(group, stage, neighbour, deadline, tag)
        if self._transports[neighbour] != "nccl":
            return Channel(host)
        group = self._groups.nccl[int(kind == "backward")]
        return Channel(host, DevicePeer(group, stage, neighbour, deadline, self._watchdog, tag))

    def _packets(self, kind: EdgeKind, neighbour: int, count: int) -> list[Packet]:
        shape, dtype = self._spec(kind, neighbour)
        if self._transports[neighbour] == "nccl" or self._device == torch.device("cpu"):
            return [self._make(shape, dtype) for _ in range(count)]
        return [StagedPacket(shape, dtype, self._device, self._labels) for _ in range(count)]

    def _spec(self, kind: EdgeKind, neighbour: int) -> TensorSpec:
        """Shape and dtype of what passes over an edge."""
        return wire_spec(self._wire(kind), self._links.partners[neighbour])

    def _wire(self, kind: EdgeKind) -> Wire:
        return "float32" if kind == "evaluation" else self._config.network.wire


def _ipc(device: torch.device) -> Ipc | None:
    """How GPU memory is shared; None on the CPU."""
    if device.type != "cuda":
        return None
    from stage_worker.edges.cuda_ipc import CudaIpc

    return CudaIpc(device)


def _connect(me: Membership, links: Links, connections: dict[int, FdConnection], deadline: float) -> None:
    """Connect to the partners on this host, which must call it too. Those that are connected already stay so."""
    missing = [partner for partner in links.partners if partner in me.stages_on_host and partner not in connections]
    listeners = {above: FdListener() for above in missing if above > me.stage}
    for above, listener in listeners.items():
        me.store.set(_listener_key(me, me.stage, above), listener.name)
    for below in missing:
        if below < me.stage:
            name = me.fetch(_listener_key(me, below, me.stage), f"stage {below}")
            connections[below] = connect(name, f"stage {below}", deadline)
    for above, listener in listeners.items():
        connections[above] = listener.accept(f"stage {above}", deadline)


def _listener_key(me: Membership, below: int, above: int) -> str:
    """Key in the launcher's store under which a stage publishes the name of its listener for one above."""
    return f"listener/{me.of_replica}/{below}/{above}"
