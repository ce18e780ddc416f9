"""How a process joins the run.

The launcher, or torchrun, starts every process with a rank; the command line gives its role. Each publishes a record of
itself in the launcher's store, and waits for those of all others.
"""

import json
import os
import socket
from dataclasses import asdict
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from common.errors import PeerError, SidewaysError
from common.processes.addresses import ADDRESS, is_loopback, own_address, use_interface_of
from common.processes.membership import JOIN_DEADLINE, Member, Membership, Role, fetch
from common.processes.zmq_curve import CurveKeys


def join(role: Role) -> Membership:
    """Join the run: publish this process and wait for all others.

    Raises:
        PeerError: the launcher's store or a peer is missing.
        SidewaysError: this process was not started by the launcher, or the members do not form a run.
    """
    rank, world, store, address = _connect()
    curve = CurveKeys()
    started = int(psutil.Process().create_time() * 1000)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0  # the driver may be too old for some
    own = Member(role, address, socket.gethostname(), gpus, curve.public.decode(), started)
    store.set(f"member/{rank}", json.dumps(asdict(own)))
    records = [fetch(store, f"member/{other}", f"process {other} of the run") for other in range(world)]
    members = tuple(Member(**json.loads(text)) for text in records)
    check(members)
    me = Membership(rank, members, store, None if is_loopback(address) else curve)
    others = members if role == "coordinator" else [me.coordinator, *me.readers]
    curve.allow(member.public_key.encode() for member in others)
    return me


def check(members: tuple[Member, ...]) -> None:
    """Raise SidewaysError unless these processes form a run."""
    local = [rank for rank, member in enumerate(members) if is_loopback(member.address)]
    if local and len(local) < len(members):
        raise SidewaysError(
            f"process {local[0]} has the address {members[local[0]].address}, which other hosts cannot reach: "
            f"set {ADDRESS} on its host to one that they can reach"
        )
    coordinators = sum(member.role == "coordinator" for member in members)
    if coordinators != 1 or all(member.role != "stage" for member in members):
        raise SidewaysError(
            f"{len(members)} processes joined, {coordinators} of them as coordinator: a run needs exactly one "
            f"coordinator and at least one stage worker (torchrun --nproc-per-node STAGES+1, docs/deploying.md)"
        )


def _connect() -> tuple[int, int, Store, str]:
    """Return rank, world size, the launcher's store with a key prefix of this attempt, and this process's address."""
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise SidewaysError(
            f"{error} is not set: start this process with `sideways train` or torchrun, not by hand"
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
    # an agent's store outlives an attempt and keeps its keys; otherwise each attempt has its own store, and the restart
    # counts of the agents may differ
    outlives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if outlives else "only"
    return rank, world, PrefixStore(f"sideways/{attempt}", store), own


def _listen(address: str, port: int) -> int:
    """Return the fd of a socket that listens on loopback only. By default torch's store listens on every interface."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((socket.gethostbyname(address), port))
    except OSError as error:
        raise SidewaysError(
            f"port {port} on {address} is in use: stop the process that holds it, or restart the run"
        ) from error
    listener.listen(1024)
    return listener.detach()
