"""A stage's process groups and its connections to neighbours on this host. They outlive the edges of one run."""

from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from common.processes.membership import JOIN_DEADLINE, Membership
from common.shared_memory.fd_passing import FdConnection

_WRITING = 1800.0  # timeout in seconds while writing a checkpoint, in the background

Backend = Literal["gloo", "nccl"]


class Groups:
    """A stage's process groups. A stage's rank in them is its number.

    Each gloo group has a thread that wakes up 100 times a second, so groups that not every run needs are only formed on
    demand: by all stages, with the same calls in the same order.

    Attributes:
        forward: group for activations.
        checkpoint: gloo group for the thread that writes checkpoints.
        connections: to neighbours on this host with which memory is shared, by stage.
    """

    def __init__(self, me: Membership, backend: Backend, deadline: float) -> None:
        """Every stage must call it. `deadline`: timeout of a transfer in the `pipeline` group, in seconds."""
        store = PrefixStore("tensors", me.store)
        limit = timedelta(seconds=JOIN_DEADLINE)
        dist.init_process_group(backend, store=store, rank=me.stage, world_size=me.stages, timeout=limit)
        self._stages, self._backend, self._deadline = list(range(me.stages)), backend, deadline
        self.connections: dict[int, FdConnection] = {}
        assert dist.group.WORLD is not None
        self.forward: dist.ProcessGroup = dist.group.WORLD
        self.checkpoint = self._form("gloo", _WRITING)
        self._backward: dist.ProcessGroup | None = None
        self._pipeline: dist.ProcessGroup | None = None

    def form_backward(self) -> None:
        """Form the group for gradients, so that neither direction blocks the other. Every stage must call it."""
        self._backward = self._backward or self._form(self._backend, JOIN_DEADLINE)

    def form_pipeline(self) -> None:
        """Form the group for the algorithms with exact gradients. Every stage must call it."""
        self._pipeline = self._pipeline or self._form(self._backend, self._deadline)

    @property
    def backward(self) -> dist.ProcessGroup:
        """The group for gradients. Call `form_backward` first."""
        assert self._backward is not None, "call form_backward first"
        return self._backward

    @property
    def pipeline(self) -> dist.ProcessGroup:
        """The group for the algorithms with exact gradients. Call `form_pipeline` first."""
        assert self._pipeline is not None, "call form_pipeline first"
        return self._pipeline

    def _form(self, backend: str, limit: float) -> dist.ProcessGroup:
        return dist.new_group(self._stages, timeout=timedelta(seconds=limit), backend=backend)
