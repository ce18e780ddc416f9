"""The members of a run, and how they reach each other.

Each process has published a `Member` record (joining.py). Stages are numbered in the order of their ranks, so nothing
depends on which host got which rank.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch.distributed as dist
import zmq
from torch._C._distributed_c10d import Store

from common.errors import PeerError, first_line
from common.processes.addresses import LOOPBACK
from common.processes.layout import stages_each
from common.processes.names import reader_text
from common.processes.zmq_curve import CurveKeys

Role = Literal["coordinator", "stage", "reader"]

REPLICAS, STAGES = "replicas", "stages"  # keys in the launcher's store: the coordinator says how many there are
JOIN_DEADLINE = 120.0  # seconds for all processes of the run to join


@dataclass(frozen=True)
class Member:
    """What a process publishes about itself.

    Attributes:
        address: at which others reach it.
        hostname: of its host; a container with its own address counts as a host.
        devices: number of visible CUDA devices.
        public_key: of its ZeroMQ sockets, 40 characters of Z85.
        started: start time of the process, in ms since 1970.
    """

    role: Role
    address: str = LOOPBACK
    hostname: str = ""
    devices: int = 0
    public_key: str = ""
    started: int = 0

    @property
    def host(self) -> tuple[str, str]:
        """Identifies the host: equal for processes on the same one."""
        return self.address, self.hostname


@dataclass(frozen=True)
class Membership:
    """This process's membership in the run.

    Attributes:
        members: all members of the run, by rank.
        store: the launcher's store, with a key prefix of this attempt.
        curve: this process's keys; None if all processes are on loopback.
        replicas: number of copies of every stage. The first workers hold the stages of replica 0, the next ones those
            of replica 1, and so on: neighbours in a pipeline have neighbouring ranks.
        of_replica: the replica whose stages the properties and methods below concern; a worker's own.
        depth: number of stages of a replica; 0: as many as it has workers. With fewer workers than stages, each holds
            several neighbouring ones.
        own_stage: of a worker, the one of its stages that the properties below concern; None: its first.
    """

    rank: int
    members: tuple[Member, ...]
    store: Store
    curve: CurveKeys | None = None
    replicas: int = 1
    of_replica: int = 0
    depth: int = 0
    own_stage: int | None = None

    @property
    def own(self) -> Member:
        """This process's member record."""
        return self.members[self.rank]

    @property
    def address(self) -> str:
        """The address at which others reach this process."""
        return self.own.address

    def arranged(self, replicas: int, depth: int = 0) -> "Membership":
        """The same with so many replicas, of which a worker is in its own, of so many stages (0: one a worker)."""
        before = [rank for rank in self.worker_ranks if rank < self.rank]
        found = replace(self, replicas=replicas, depth=depth)
        return replace(found, of_replica=len(before) // found.processes) if self.own.role == "stage" else found

    def replica(self, number: int) -> "Membership":
        """The same, concerning the stages of another replica."""
        return replace(self, of_replica=number)

    def at(self, stage: int) -> "Membership":
        """The same, concerning another of this worker's stages."""
        return replace(self, own_stage=stage)

    # ---- which worker holds which stages

    @property
    def worker_ranks(self) -> list[int]:
        """The ranks of all stage workers, of all replicas."""
        return [rank for rank, member in enumerate(self.members) if member.role == "stage"]

    @property
    def workers_have_gpus(self) -> bool:
        """Whether every stage worker, of all replicas, sees a GPU."""
        return all(self.members[rank].devices for rank in self.worker_ranks)

    @property
    def worker(self) -> int:
        """This worker's number among those of all replicas; -1 for any other process."""
        return self.worker_ranks.index(self.rank) if self.own.role == "stage" else -1

    @property
    def processes(self) -> int:
        """Number of stage workers of a replica."""
        return len(self.worker_ranks) // self.replicas

    @property
    def stages(self) -> int:
        """Number of stages of a replica."""
        return self.depth or self.processes

    @property
    def stages_each(self) -> int:
        """Number of stages that a worker holds; the last one may hold fewer."""
        return stages_each(self.stages, self.processes)

    def process_of(self, stage: int) -> int:
        """The number, in its replica, of the worker that holds a stage."""
        return stage // self.stages_each

    def worker_of(self, number: int) -> int:
        """The number of the worker that holds a stage, both among those of all replicas."""
        replica, stage = divmod(number, self.stages)
        return replica * self.processes + self.process_of(stage)

    @property
    def held(self) -> range:
        """The stages that this worker holds; empty for any other process."""
        return self._held_by(self.rank) if self.own.role == "stage" else range(0)

    def _held_by(self, rank: int) -> range:
        first = self.worker_ranks.index(rank) % self.processes * self.stages_each
        return range(first, min(first + self.stages_each, self.stages))

    @property
    def stage_ranks(self) -> list[int]:
        """The ranks of the workers that hold the replica's stages, in stage order."""
        own = self.worker_ranks[self.of_replica * self.processes :]
        return [own[self.process_of(stage)] for stage in range(self.stages)]

    @property
    def stage(self) -> int:
        """This worker's stage, or the one of its stages that this concerns; -1 for any other process."""
        if self.own_stage is not None:
            return self.own_stage
        return self.held[0] if self.held else -1

    @property
    def leads(self) -> bool:
        """Whether this stage is the first of its worker."""
        return self.stage == self.held[0]

    @property
    def number(self) -> int:
        """This stage's number among those of all replicas; -1 for any other process."""
        return self.of_replica * self.stages + self.stage if self.held else -1

    @property
    def coordinator(self) -> Member:
        """The coordinator's member record."""
        return next(member for member in self.members if member.role == "coordinator")

    @property
    def attempt(self) -> int:
        """Id of this attempt: the start time of its coordinator, so it is larger than that of any earlier attempt."""
        return self.coordinator.started

    # ---- what feeds the replicas

    @property
    def readers(self) -> list[Member]:
        """The member records of the readers, in the order of their ranks."""
        return [member for member in self.members if member.role == "reader"]

    @property
    def reader(self) -> int:
        """This reader's number; -1 for any other process."""
        before = sum(member.role == "reader" for member in self.members[: self.rank])
        return before if self.own.role == "reader" else -1

    def replicas_of(self, reader: int) -> range:
        """The replicas that a reader feeds: neighbours, the same number for each."""
        share = self.replicas // len(self.readers)
        return range(reader * share, (reader + 1) * share)

    @property
    def feeder(self) -> Member:
        """The member record of what feeds this replica's training: a reader, or the coordinator if there is none."""
        return self.readers[self._reader_here] if self.readers else self.coordinator

    @property
    def feeder_text(self) -> str:
        """What messages call it."""
        return reader_text(self._reader_here) if self.readers else "the coordinator"

    @property
    def _reader_here(self) -> int:
        return self.of_replica * len(self.readers) // self.replicas

    # ---- this host

    @property
    def local_processes(self) -> int:
        """Number of stage workers on this host."""
        return len(self._local)

    @property
    def local_process(self) -> int:
        """Index of this stage worker among those of its host; -1 for any other process."""
        return self._local.index(self.rank) if self.own.role == "stage" else -1

    @property
    def local_stage(self) -> int:
        """Index of this stage among those of its host, of all replicas; -1 for any other process."""
        if not self.held:
            return -1
        before = self._local[: self.local_process]
        return sum(len(self._held_by(rank)) for rank in before) + self.stage - self.held[0]

    @property
    def _local(self) -> list[int]:
        return [rank for rank in self.worker_ranks if self.members[rank].host == self.own.host]

    @property
    def local_stages(self) -> list[tuple[int, int]]:
        """The stages on this host, of all replicas, each as its replica and its number there."""
        workers = [(self.worker_ranks.index(rank) // self.processes, rank) for rank in self._local]
        return [(replica, stage) for replica, rank in workers for stage in self._held_by(rank)]

    @property
    def stages_on_host(self) -> frozenset[int]:
        """The stages on this host with the same number of visible CUDA devices, including this one."""
        same = (self.own.host, self.own.devices)
        ranks = self.stage_ranks
        return frozenset(
            stage for stage, rank in enumerate(ranks) if (self.members[rank].host, self.members[rank].devices) == same
        )

    @property
    def own_devices(self) -> bool:
        """Whether every stage worker of the run can have its own CUDA device."""
        stages = [self.members[rank] for rank in self.worker_ranks]
        return all(sum(other.host == stage.host for other in stages) <= stage.devices for stage in stages)

    @property
    def on_coordinator_host(self) -> bool:
        """Whether the coordinator is on this host."""
        return self.coordinator.host == self.own.host

    @property
    def on_feeder_host(self) -> bool:
        """Whether what feeds this replica's training is on this host."""
        return self.feeder.host == self.own.host

    def listen(self, endpoint: "zmq.Socket[bytes]") -> str:
        """Bind to a free port, accepting only members of the run. Returns the endpoint, "tcp://address:port"."""
        if self.curve is not None:
            self.curve.listen(endpoint)
        port = endpoint.bind_to_random_port(f"tcp://{self.own.address}")
        return f"tcp://{self.own.address}:{port}"

    def connect(self, endpoint: "zmq.Socket[bytes]", address: str, to: Member) -> None:
        """Connect to the endpoint `address` of member `to`, authenticated by its public key."""
        if self.curve is not None:
            self.curve.connect(endpoint, to.public_key.encode())
        endpoint.connect(address)

    def stage_member(self, stage: int) -> Member:
        """The member record of a stage; -1 is the top stage."""
        return self.members[self.stage_ranks[stage]]

    def fetch(self, key: str, whose: str = "the coordinator") -> str:
        """Wait for a value that process `whose` writes to the store. Raises PeerError after `JOIN_DEADLINE` seconds."""
        return fetch(self.store, key, whose)


def fetch(store: Store, key: str, whose: str) -> str:
    """Wait for a value that process `whose` writes. Raises PeerError after `JOIN_DEADLINE` seconds."""
    try:
        return store.get(key).decode()
    except (dist.DistError, RuntimeError) as error:
        raise PeerError(
            f"{whose} was not ready within {JOIN_DEADLINE:.0f} s, or the launcher's store is gone "
            f"({first_line(error)}): see the other processes' errors, and check that every agent is running"
        ) from error
