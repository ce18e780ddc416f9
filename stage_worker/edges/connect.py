"""A stage's edges, each over the transport that fits (transport.py)."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from common.config.running import Network
from common.config.settings import Config
from common.errors import ConfigError
from common.models.shapes import TensorSpec
from common.processes.deadlines import for_edges
from common.processes.membership import Membership
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.packet import Packet, StagedPacket
from common.rule.wire import Wire, decoder_of, encoder_of, wire_spec
from common.shared_memory.fd_passing import FdConnection
from common.telemetry.spans import Kind, WorkClock
from stage_worker.edges.ends import Incoming, Outgoing, Receiver, Sender
from stage_worker.edges.links import EdgeEnd, EdgeKey, EdgeKind, Links
from stage_worker.edges.local import LocalEdge, LocalIncoming, LocalOutgoing
from stage_worker.edges.mapped_edges import MappedEdges
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.torch_p2p import Channel, P2PIncoming, P2POutgoing, Peer, tag_of
from stage_worker.edges.transfer_watchdog import TransferWatchdog
from stage_worker.edges.transport import Placement, Transport, choose, on_cpu, uses_nccl

LocalEdges = dict[tuple[EdgeKind, int, int], LocalEdge]  # by kind, source and target

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
    """A stage's edges. Both ends of an edge must be created with the same settings.

    Before their first use stage_worker/edges/neighbours.py connects those of all stages of the process.

    Attributes:
        me: the membership, concerning this stage.
        links: which stages it exchanges tensors with.
        mapped: the edges in memory that both ends map; None if there is no other process.
    """

    def __init__(
        self,
        config: Config,
        me: Membership,
        links: Links,
        device: torch.device,
        work: WorkClock,
        labels: LabelForm = ONE_CLASS,
        local: LocalEdges | None = None,
    ) -> None:
        """Prepare the edges.

        Args:
            me: concerning this stage.
            links: the stage's edges.
            device: on which it computes.
            work: the time spent sending and waiting is added to it.
            labels: form of the rows' labels.
            local: the edges between this process's stages, if it holds several.
        """
        self.me, self.links = me, links
        self._config, self._device, self._work, self._labels = config, device, work, labels
        self._channels_last = config.channels_last
        self._make = partial(Packet, device=device, labels=labels, channels_last=self._channels_last)
        self._local = {} if local is None else local
        self._deadline = for_edges(config.network.deadline)
        self._transports: dict[int, Transport] = {}
        self._gpus: dict[int, int | None] = {}
        self._groups: Groups | None = None
        self._nccl = False
        self._watchdog: TransferWatchdog | None = None
        self._channels: dict[EdgeKey, Channel] = {}
        self._over_torch: dict[EdgeKey, Incoming] = {}
        self.mapped: MappedEdges | None = None

    @property
    def network(self) -> Network:
        """The network's settings."""
        return self._config.network

    @property
    def remote(self) -> list[int]:
        """The partners in other processes."""
        return [partner for partner in self.links.partners if partner not in self.me.held]

    def choose(self, groups: Groups, gpus: dict[int, int | None]) -> None:
        """Choose the transports, and form the process groups that any stage needs. Every stage must call it.

        Args:
            gpus: UUIDs of the GPUs of this stage and its partners, by stage; None on the CPU.

        Raises:
            ConfigError: network.transport is not possible.
        """
        self._groups, self._gpus, self._nccl = groups, gpus, uses_nccl(self._config, self.me)
        self._watchdog = TransferWatchdog()
        self._transports = {partner: self._choose(partner) for partner in self.remote}
        self._form_groups()
        self.mapped = self._mapped_edges(groups.connections)

    def sender(self, kind: EdgeKind, to: int) -> Sender:
        """The end that sends activations up or gradients down, to a partner."""
        encoder = encoder_of(self._wire(kind), self.links.partners[to], self._make)
        return Sender(self._outgoing(kind, to), self._work, *_SENDING[kind], encoder)

    def _outgoing(self, kind: EdgeKind, to: int) -> Outgoing:
        if to in self.me.held:
            return LocalOutgoing(self._local_edge(kind, self.me.stage, to))
        if self.mapped is not None and (kind, to) in self.mapped.outgoing:
            return self.mapped.outgoing[kind, to]
        return P2POutgoing(self._channel(kind, to), self._packets(kind, to, self.links.ticks[to] + 1))

    def receiver(self, kind: EdgeKind, of: int, first_tick: int) -> Receiver:
        """The end that receives activations or gradients of a partner, from `first_tick` on."""
        ticks, wait = self.links.ticks[of], _RECEIVING[kind]
        decoder = decoder_of(self._wire(kind), self.links.partners[of], self._make)
        return Receiver(self._incoming(kind, of), self.me.stage, of, first_tick, self._work, wait, ticks, decoder)

    def _incoming(self, kind: EdgeKind, of: int) -> Incoming:
        if of in self.me.held:
            return LocalIncoming(self._local_edge(kind, of, self.me.stage))
        if self.mapped is not None and (kind, of) in self.mapped.incoming:
            return self.mapped.incoming[kind, of]
        if (kind, of) not in self._over_torch:
            packets = self._packets(kind, of, 2 * self.links.ticks[of])
            self._over_torch[kind, of] = P2PIncoming(self._channel(kind, of), packets)
        return self._over_torch[kind, of]

    def _local_edge(self, kind: EdgeKind, source: int, target: int) -> LocalEdge:
        """The edge between two stages of this process, which the first of them to ask creates."""
        partner = target if source == self.me.stage else source
        if (kind, source, target) not in self._local:
            spec, ticks = self._spec(kind, partner), self.links.ticks[partner]
            edge = LocalEdge(spec, ticks, self._labels, self._device, self._channels_last)
            self._local[kind, source, target] = edge
        return self._local[kind, source, target]

    def close(self) -> None:
        """Close the edges in mapped memory, and end the watchdog."""
        if self._watchdog is not None:
            self._watchdog.close()
        if self.mapped is not None:
            self.mapped.close()

    def _choose(self, neighbour: int) -> Transport:
        edge = min(self.me.stage, neighbour), max(self.me.stage, neighbour)
        own = Placement(True, self._gpus[self.me.stage])
        other = Placement(neighbour in self.me.stages_on_host, self._gpus[neighbour])
        transport = choose(self._config, edge, own, other, self._nccl, self.links.ticks[neighbour])
        if transport == "nccl" and edge[1] > edge[0] + 1 and self.me.stages_each > 1:
            raise ConfigError(
                f"the skip between stages {edge[0]} and {edge[1]} would go by NCCL, which cannot tell it from other "
                "edges between the same processes: start a process for every stage, or leave skips out"
            )
        return transport

    def _form_groups(self) -> None:
        """Form the process groups that any stage needs. All stages must take part in the same order."""
        assert self._groups is not None
        if self._config.exact_gradients:
            self._groups.form_pipeline("nccl" if self._device.type == "cuda" else "gloo")
            if self._nccl:  # evaluations have edges of their own
                self._groups.form_nccl()
        elif not (self._maps_all and on_cpu(self._config, self.me)):  # GPUs of one host may turn out to need it
            self._groups.form_backward()
            if self._nccl:
                self._groups.form_nccl()

    @property
    def _maps_all(self) -> bool:
        """Whether all edges of the run are in mapped memory."""
        maps = self._config.network.transport in ("auto", "shared")
        return maps and len(self.me.stages_on_host) == self.me.stages

    # ---- edges in mapped memory

    def _mapped_edges(self, connections: Mapping[tuple[int, int], FdConnection]) -> MappedEdges:
        links, own = self.links, self._gpus[self.me.stage]
        outgoing = list(self._mapped_keys(tuple(links.above), tuple(links.below)))
        incoming = list(self._mapped_keys(tuple(links.below), tuple(links.above)))
        ends = {key: self._end(*key) for key in (*outgoing, *incoming)}
        same_gpu = [stage for stage, gpu in self._gpus.items() if gpu == own]
        return MappedEdges(ends, outgoing, incoming, connections, self._device, same_gpu)

    def _end(self, kind: EdgeKind, partner: int) -> EdgeEnd:
        form = self.links.ticks[partner], self._labels, self._channels_last
        return EdgeEnd(kind, self._spec(kind, partner), self.me.stage, partner, self._deadline, *form)

    def _mapped_keys(self, forward: Sequence[int], backward: Sequence[int]) -> Iterator[EdgeKey]:
        """The edges in mapped memory, with the partners of either direction."""
        kinds: list[tuple[EdgeKind, Sequence[int]]] = [
            ("forward", forward),
            ("backward", backward),
            ("evaluation", forward),
        ]
        for kind, partners in kinds:
            # torch's schedules have connections of their own
            used = kind == "evaluation" or not self._config.exact_gradients
            for partner in partners if used else ():
                if self._transports.get(partner) in _MAPPED:
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
        assert self._groups is not None
        assert self._watchdog is not None
        stage, deadline, rank = self.me.stage, self._deadline, self.me.process_of(neighbour)
        tag = tag_of(_TAGS * self._groups.run + int(kind == "evaluation"), (stage, neighbour))
        group = self._groups.backward if kind == "backward" else self._groups.forward
        host = Peer(group, stage, neighbour, deadline, tag, rank)
        if self._transports[neighbour] != "nccl":
            return Channel(host)
        group = self._groups.nccl[int(kind == "backward")]
        return Channel(host, Peer(group, stage, neighbour, deadline, tag, rank, self._watchdog))

    def _packets(self, kind: EdgeKind, neighbour: int, count: int) -> list[Packet]:
        shape, dtype = self._spec(kind, neighbour)
        if self._transports[neighbour] == "nccl" or self._device == torch.device("cpu"):
            return [self._make(shape, dtype) for _ in range(count)]
        return [StagedPacket(shape, dtype, self._device, self._labels, self._channels_last) for _ in range(count)]

    def _spec(self, kind: EdgeKind, neighbour: int) -> TensorSpec:
        """Shape and dtype of what passes over an edge."""
        return wire_spec(self._wire(kind), self.links.partners[neighbour])

    def _wire(self, kind: EdgeKind) -> Wire:
        return "float32" if kind == "evaluation" else self._config.network.wire
