"""Who is who in a run, and the groups they form.

Every process is started by torch's elastic launcher with a rank. Its role is told on its command line, and the ranks
exchange their roles through the launcher's store: stages are numbered in the order of their ranks, so nothing depends
on which host got which rank.
"""

import os
import socket
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import rpc

from common.curve import Curve, Key
from common.errors import PeerError, SidewaysError
from common.hosts import ADDRESS, LOOPBACK, is_loopback, own_address, use_interface_of
from common.lines import Line

Role = Literal["coordinator", "stage"]

_WRITING = 1800.0  # seconds that stages may be apart in writing a checkpoint; nobody waits for them
JOIN_DEADLINE = 120.0  # seconds for every process of the run to appear
COORDINATOR = "coordinator"


def stage_name(stage: int) -> str:
    """The RPC name of a stage worker."""
    return f"stage{stage}"


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
    epoch: int  # this attempt's number, larger than any earlier one's: ms since 1970 at which its coordinator started
    beside: frozenset[int]  # the stages of this host, with the same CUDA devices
    with_coordinator: bool  # it is on this host, too
    store: Store
    address: str = LOOPBACK  # by which others reach this process
    curve: Curve | None = None  # None: all processes are on loopback
    keys: tuple[Key, ...] = ()  # public keys, the coordinator's and then the stages'

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
    curve = Curve()
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
    beside = frozenset(n for n, other in enumerate(stage_ranks) if members[other][1:3] == members[rank][1:3])
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
        epoch=members[coordinators[0]][4],
        beside=beside,
        with_coordinator=members[coordinators[0]][2] == host,
        store=store,
        address=address,
        curve=None if is_loopback(address) else curve,
        keys=keys,
    )


def _member(store: Store, rank: int) -> tuple[str, str, str, Key, int]:
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


def start_rpc(me: Membership) -> None:
    """Open the control channel. Every process of the run must call it."""
    name = COORDINATOR if me.role == "coordinator" else stage_name(me.stage)
    # over TCP alone: the shared-memory transport polls, and does not notice that the other side has died; the channels
    # for GPUs, which calls have no use for, fail to start on some hosts that have one
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4,
        rpc_timeout=JOIN_DEADLINE,
        init_method="env://",
        _transports=["uv"],
        _channels=["basic"],
    )
    warnings.filterwarnings("ignore", "You are using a Backend", UserWarning)  # torch's own use, inside init_rpc
    try:
        rpc.init_rpc(name, rank=me.rank, world_size=me.world, rpc_backend_options=options)
    except (dist.DistError, RuntimeError) as error:
        raise PeerError(f"{name}: the control channel did not come up: {error}") from error


class Groups:
    """A stage's process groups; its rank in them is its number.

    Gloo has a thread for each that wakes up 100 times a second, so they are only formed when they are wanted: by all
    stages, which wait for each other.

    Attributes:
        forward: for activations.
        checkpoint: on the host, for the writing thread alone.
        lines: to neighbours on this host, once memory is shared with them.
    """

    def __init__(self, me: Membership, backend: Literal["gloo", "nccl"], deadline: float) -> None:
        """`deadline` in seconds for a pipeline transfer."""
        store = PrefixStore("tensors", me.store)
        limit = timedelta(seconds=JOIN_DEADLINE)
        dist.init_process_group(backend, store=store, rank=me.stage, world_size=me.stages, timeout=limit)
        self._everyone, self._backend, self._deadline = list(range(me.stages)), backend, deadline
        self.lines: dict[int, Line] = {}
        assert dist.group.WORLD is not None
        self.forward: dist.ProcessGroup = dist.group.WORLD
        self.checkpoint = self._form("gloo", _WRITING)

    @cached_property
    def backward(self) -> dist.ProcessGroup:
        """For gradients, so that neither waits behind the other."""
        return self._form(self._backend, JOIN_DEADLINE)

    @cached_property
    def pipeline(self) -> dist.ProcessGroup:
        """For the algorithms with exact gradients."""
        return self._form(self._backend, self._deadline)

    def _form(self, backend: str, limit: float) -> dist.ProcessGroup:
        return dist.new_group(self._everyone, timeout=timedelta(seconds=limit), backend=backend)
