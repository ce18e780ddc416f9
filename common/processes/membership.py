"""Who is who in a run, and the groups they form.

Every process is started by torch's elastic launcher with a rank. Its role is told on its command line, and the ranks
exchange their roles through the launcher's store: stages are numbered in the order of their ranks, so nothing depends
on which host got which rank.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from common.errors import PeerError, SidewaysError
from common.processes.addresses import ADDRESS, LOOPBACK, is_loopback, own_address, use_interface_of
from common.processes.zmq_curve import CurveKeys, PublicKey

Role = Literal["coordinator", "stage"]

JOIN_DEADLINE = 120.0  # seconds for every process of the run to appear


@dataclass(frozen=True)
class Membership:
    """This process's place in the run."""

    role: Role
    rank: int
    world: int
    stage: int  # of a stage worker; -1 for the coordinator
    stages: int
    local_stage: int  # number of this stage among those of its host; -1 for the coordinator
    local_stages: int  # stage workers on this host
    own_devices: bool  # every stage of the run has a CUDA device of its own
    attempt: int  # this attempt's number, larger than any earlier one's: ms since 1970 at which its coordinator started
    stages_on_host: frozenset[int]  # the stages of this host, with the same CUDA devices
    on_coordinator_host: bool  # it is on this host, too
    store: Store
    address: str = LOOPBACK  # by which others reach this process
    curve: CurveKeys | None = None  # None: all processes are on loopback
    keys: tuple[PublicKey, ...] = ()  # public keys, the coordinator's and then the stages'

    def fetch(self, key: str, whose: str = "the coordinator") -> str:
        """What another process has put, or will soon put, into the store. Raises PeerError."""
        return _fetch(self.store, key, whose)


def _fetch(store: Store, key: str, whose: str) -> str:
    try:
        return store.get(key).decode()
    except (dist.DistError, RuntimeError) as error:
        raise PeerError(
            f"{whose} did not appear within {JOIN_DEADLINE:.0f} s, or the launcher's store is gone "
            f"({str(error).splitlines()[0]}): look at the other processes' messages, and check that every agent runs"
        ) from error


def join(role: Role) -> Membership:
    """Meet the other processes of the run. Raises SidewaysError when the launcher or a peer is missing."""
    rank, world, store, address = _connect()
    curve = CurveKeys()
    host, devices = f"{address}/{socket.gethostname()}", torch.cuda.device_count()
    started = int(psutil.Process().create_time() * 1000)
    store.set(f"member/{rank}", f"{role} {devices} {curve.public.decode()} {started} {host}")
    members = [_member(store, other) for other in range(world)]
    _check_addresses([member[2] for member in members])
    coordinators = [other for other, member in enumerate(members) if member[0] == "coordinator"]
    if len(coordinators) != 1 or world < 2:
        raise SidewaysError(
            f"{world} processes joined, {len(coordinators)} of them as coordinator: a run needs exactly one "
            f"coordinator and at least one stage worker (torchrun --nproc-per-node STAGES+1, see the README)"
        )
    stage_ranks = [other for other, member in enumerate(members) if member[0] == "stage"]
    local = [other for other in stage_ranks if members[other][2] == host]
    per_host = {members[other][2]: int(members[other][1]) for other in stage_ranks}
    stages_on_host = frozenset(n for n, other in enumerate(stage_ranks) if members[other][1:3] == members[rank][1:3])
    crowded = any(sum(members[other][2] == name for other in stage_ranks) > count for name, count in per_host.items())
    keys = tuple(members[other][3] for other in [*coordinators, *stage_ranks])
    curve.allow(keys if role == "coordinator" else keys[:1])
    return Membership(
        role=role,
        rank=rank,
        world=world,
        stage=stage_ranks.index(rank) if role == "stage" else -1,
        stages=len(stage_ranks),
        local_stage=local.index(rank) if role == "stage" else -1,
        local_stages=len(local),
        own_devices=not crowded,
        attempt=members[coordinators[0]][4],
        stages_on_host=stages_on_host,
        on_coordinator_host=members[coordinators[0]][2] == host,
        store=store,
        address=address,
        curve=None if is_loopback(address) else curve,
        keys=keys,
    )


def _member(store: Store, rank: int) -> tuple[str, str, str, PublicKey, int]:
    text = _fetch(store, f"member/{rank}", f"process {rank} of the run")
    role, devices, key, started, host = text.split(" ", 4)
    return role, devices, host, key.encode(), int(started)


def _check_addresses(hosts: list[str]) -> None:
    addresses = [host.split("/", 1)[0] for host in hosts]
    inner = [rank for rank, address in enumerate(addresses) if is_loopback(address)]
    if inner and len(inner) < len(addresses):
        raise SidewaysError(
            f"process {inner[0]} takes {addresses[inner[0]]} for its address, which other hosts cannot reach: "
            f"set {ADDRESS} there to one that they can"
        )


def _connect() -> tuple[int, int, Store, str]:
    """Rank, world, the launcher's store under a name of this attempt, and this process's own address."""
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise SidewaysError(
            f"{error} is not set: this process is started by `sideways train` or by torchrun, not by hand"
        ) from error
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    own = own_address(address)
    use_interface_of(own)
    listener = _listen(address, port) if serves and is_loopback(address) else None
    limit = timedelta(seconds=JOIN_DEADLINE)
    try:
        store = TCPStore(address, port, world, serves, limit, multi_tenant=True, master_listen_fd=listener)
    except (dist.DistError, RuntimeError) as error:
        raise PeerError(f"cannot reach the launcher's store at {address}:{port}: {error}") from error
    # a store that outlives an attempt still has its keys; where each attempt has its own, agents' counts may differ
    outlives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if outlives else "only"
    return rank, world, PrefixStore(f"sideways/{attempt}", store), own


def _listen(address: str, port: int) -> int:
    """A listening socket on loopback alone: left to itself torch's store listens on every interface."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((socket.gethostbyname(address), port))
    except OSError as error:
        raise SidewaysError(f"port {port} on {address} is in use: stop what holds it or start the run again") from error
    listener.listen(1024)
    return listener.detach()
