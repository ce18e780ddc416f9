"""A stage's process groups, and its connections to neighbours on this host: what outlives one run's edges."""

from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from common.processes.membership import JOIN_DEADLINE, Membership
from common.shared_memory.fd_passing import FdConnection

_WRITING = 1800.0  # seconds that stages may be apart in writing a checkpoint; nobody waits for them

Backend = Literal["gloo", "nccl"]


class Groups:
    """A stage's process groups; its rank in them is its number.

    Gloo has a thread for each group that wakes up 100 times a second, so those that not every run needs are only formed
    when one does: by all stages, with the same calls in the same order.

    Attributes:
        forward: for activations.
        checkpoint: on the host, for the writing thread alone.
        connections: to neighbours on this host, once memory is shared with them; by their stage.
    """

    def __init__(self, me: Membership, backend: Backend, deadline: float) -> None:
        """`deadline` in seconds for a pipeline transfer. Every stage must call it."""
        store = PrefixStore("tensors", me.store)
        limit = timedelta(seconds=JOIN_DEADLINE)
        dist.init_process_group(backend, store=store, rank=me.stage, world_size=me.stages, timeout=limit)
        self._stages, self._backend, self._deadline = list(range(me.stages)), backend, deadline
        self.connections: dict[int, FdConnection] = {}
        assert dist.group.WORLD is not None
        self.forward: dist.ProcessGroup = dist.group.WORLD
        self.checkpoint = self._formed("gloo", _WRITING)
        self._backward: dist.ProcessGroup | None = None
        self._pipeline: dist.ProcessGroup | None = None

    def form_backward(self) -> None:
        """Form the group for gradients, so that neither direction waits behind the other. Every stage must call it."""
        self._backward = self._backward or self._formed(self._backend, JOIN_DEADLINE)

    def form_pipeline(self) -> None:
        """Form the group for the algorithms with exact gradients. Every stage must call it."""
        self._pipeline = self._pipeline or self._formed(self._backend, self._deadline)

    @property
    def backward(self) -> dist.ProcessGroup:
        """For gradients, once formed."""
        assert self._backward is not None, "form_backward comes first"
        return self._backward

    @property
    def pipeline(self) -> dist.ProcessGroup:
        """For the algorithms with exact gradients, once formed."""
        assert self._pipeline is not None, "form_pipeline comes first"
        return self._pipeline

    def _formed(self, backend: str, limit: float) -> dist.ProcessGroup:
        return dist.new_group(self._stages, timeout=timedelta(seconds=limit), backend=backend)
