"""A worker's process groups and its connections to others on this host. They outlive the edges of one run."""

from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from common.processes.membership import JOIN_DEADLINE, Membership
from common.shared_memory.fd_passing import FdConnection

_WRITING = 1800.0  # timeout in seconds while writing a checkpoint, in the background
# NCCL's own timeout, which aborts the process: it must never come before the stage's deadline and its clear error
_NCCL_MARGIN = 2.0

Backend = Literal["gloo", "nccl"]


class Groups:
    """The process groups of a replica's stage workers. A worker's rank in them is its number in the replica.

    Each gloo group has a thread that wakes up 100 times a second, so groups that not every run needs are only formed on
    demand: by all workers, with the same calls in the same order.

    Attributes:
        forward: gloo group for activations, or for their headers.
        checkpoint: gloo group for the thread that writes checkpoints.
        connections: between stages of this host that share memory, by own stage and the other.
        run: number of the run of these processes, from 1.
    """

    def __init__(self, me: Membership, deadline: float) -> None:
        """Every worker must call it. `deadline`: of a transfer, in seconds."""
        store = PrefixStore(f"tensors/{me.of_replica}", me.store)
        limit = timedelta(seconds=JOIN_DEADLINE)
        rank = me.process_of(me.stage)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=me.processes, timeout=limit)
        self._ranks, self._deadline = list(range(me.processes)), deadline
        self.connections: dict[tuple[int, int], FdConnection] = {}
        self.run = 0
        assert dist.group.WORLD is not None
        self.forward: dist.ProcessGroup = dist.group.WORLD
        self.checkpoint = self._form("gloo", _WRITING)
        self._backward: dist.ProcessGroup | None = None
        self._nccl: tuple[dist.ProcessGroup, dist.ProcessGroup] | None = None
        self._pipeline: dist.ProcessGroup | None = None

    def renew_checkpoint(self) -> None:
        """Form the group for checkpoints anew: once a process was too late, gloo's is unusable. Every worker calls it.

        A thread may still be writing with the old one, and fails then.
        """
        dist.destroy_process_group(self.checkpoint)
        self.checkpoint = self._form("gloo", _WRITING)

    def form_backward(self) -> None:
        """Form the group for gradients, so that neither direction blocks the other. Every worker must call it."""
        self._backward = self._backward or self._form("gloo", JOIN_DEADLINE)

    def form_nccl(self) -> None:
        """Form the groups for activations and gradients between GPUs. Every worker must call it, each with a GPU."""
        limit = max(JOIN_DEADLINE, _NCCL_MARGIN * self._deadline)
        self._nccl = self._nccl or (self._form("nccl", limit), self._form("nccl", limit))

    def form_pipeline(self, backend: Backend) -> None:
        """Form the group for the algorithms with exact gradients. Every worker must call it."""
        self._pipeline = self._pipeline or self._form(backend, self._deadline)

    @property
    def backward(self) -> dist.ProcessGroup:
        """The group for gradients, or for their headers. Call `form_backward` first."""
        assert self._backward is not None, "call form_backward first"
        return self._backward

    @property
    def nccl(self) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
        """The groups for activations and for gradients between GPUs. Call `form_nccl` first."""
        assert self._nccl is not None, "call form_nccl first"
        return self._nccl

    @property
    def pipeline(self) -> dist.ProcessGroup:
        """The group for the algorithms with exact gradients. Call `form_pipeline` first."""
        assert self._pipeline is not None, "call form_pipeline first"
        return self._pipeline

    def _form(self, backend: str, limit: float) -> dist.ProcessGroup:
        return dist.new_group(self._ranks, timeout=timedelta(seconds=limit), backend=backend)
