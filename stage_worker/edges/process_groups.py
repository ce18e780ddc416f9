"""A stage's process groups."""

from datetime import timedelta
from functools import cached_property
from typing import Literal

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from common.processes.membership import JOIN_DEADLINE, Membership
from common.shared_memory.fd_passing import FdConnection

_WRITING = 1800.0  # seconds that stages may be apart in writing a checkpoint; nobody waits for them


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
        self.lines: dict[int, FdConnection] = {}
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
