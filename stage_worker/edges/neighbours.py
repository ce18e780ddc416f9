"""Connects the edges of all stages that a process holds to those of the other processes."""

from collections.abc import Sequence

import torch

from common.messages.stage_calls import BUILDING
from common.processes.membership import Membership
from common.shared_memory.fd_passing import FdConnection, FdListener, connect
from stage_worker.edges.connect import Edges
from stage_worker.edges.handshake import agree
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.transport import gpu_of


def connect_edges(held: Sequence[Edges], groups: Groups | None, device: torch.device) -> None:
    """Connect the edges. Every process must call it.

    Args:
        held: of the stages of this process, from the bottom.
        groups: of all processes; None for a single one, which has nothing to connect.
        device: on which the stages compute.

    Raises:
        ConfigError: network.transport is not possible.
        PeerError: a partner expects another shape or dtype, or does not answer.
    """
    if groups is None:
        return
    me, network = held[0].me, held[0].network
    building = network.deadline + BUILDING  # the others may still be building
    gpus = agree(groups.forward, [edges.links for edges in held], gpu_of(device), building, me.process_of)
    groups.run += 1
    for edges in held:
        edges.choose(groups, gpus)
    if network.transport in ("auto", "shared"):
        _connect(held, groups.connections, building)
    mapped = [edges.mapped for edges in held if edges.mapped is not None]
    for own in mapped:
        own.offer()
    for own in mapped:
        own.accept()
    for own in mapped:
        own.complete()


def _connect(held: Sequence[Edges], connections: dict[tuple[int, int], FdConnection], deadline: float) -> None:
    """Connect to the partners on this host, which must call it too. Those that are connected already stay so."""
    missing = [
        (edges.me, partner)
        for edges in held
        for partner in edges.remote
        if partner in edges.me.stages_on_host and (edges.me.stage, partner) not in connections
    ]
    listeners = {(me.stage, above): FdListener() for me, above in missing if above > me.stage}
    for (stage, above), listener in listeners.items():
        held[0].me.store.set(_listener_key(held[0].me, stage, above), listener.name)
    for me, below in missing:
        if below < me.stage:
            name = me.fetch(_listener_key(me, below, me.stage), f"stage {below}")
            connections[me.stage, below] = connect(name, f"stage {below}", deadline)
    for (stage, above), listener in listeners.items():
        connections[stage, above] = listener.accept(f"stage {above}", deadline)


def _listener_key(me: Membership, below: int, above: int) -> str:
    """Key in the launcher's store under which a stage publishes the name of its listener for one above."""
    return f"listener/{me.of_replica}/{below}/{above}"
