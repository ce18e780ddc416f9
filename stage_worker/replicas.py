"""The mean of a stage's gradients over its replicas, taken while the backward pass still computes others.

    consumes   the gradients of this replica's parameters, as autograd completes them
    produces   their means over all replicas, in the parameters' .grad
    waits for  the other replicas' backward passes of the same tick

The parameters lie in buckets, from the last to the first, as the backward pass completes them. When all gradients of a
bucket are there, each replica is sent a part of it; it adds the parts of all replicas in their order, and all replicas
gather the sums. That moves as many bytes as a ring does, but with a fixed order of addition: so the result equals the
one-process reference (common/rule/replicas.py) bit for bit for any number of replicas.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore

from common.errors import ConfigError
from common.processes.membership import JOIN_DEADLINE, Membership
from common.rule.replicas import mean_of
from common.telemetry.spans import Kind, WorkClock, clock
from stage_worker.edges.peer_errors import replicas_failed

_WAIT = int(Kind.WAIT_REPLICAS)
_BUCKET = 4 << 20  # bytes: small enough to leave early, large enough that messages cost little


class _Collectives(Protocol):
    """What is used of torch's process groups."""

    def broadcast(self, tensor: Tensor, root: int, /) -> dist.Work: ...
    def alltoall_base(self, output: Tensor, input: Tensor, outputs: list[int], inputs: list[int], /) -> dist.Work: ...
    def _allgather_base(self, output: Tensor, input: Tensor, /) -> dist.Work: ...


class ReplicaGroup:
    """The replicas of this stage. Every replica must create it.

    Attributes:
        group: a process group in which a replica's rank is its number.
        count: number of replicas.
    """

    def __init__(self, me: Membership, device: torch.device, deadline: float) -> None:
        """`deadline` of each wait, in seconds."""
        store, limit = PrefixStore(f"replicas/{me.stage}", me.store), timedelta(seconds=max(JOIN_DEADLINE, deadline))
        self.count, self._stage, self._deadline = me.replicas, me.stage, timedelta(seconds=deadline)
        place = store, me.of_replica, me.replicas
        self.group: _Collectives
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            _check_devices(me)
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            self.group = cast(_Collectives, dist.ProcessGroupNCCL(*place, options))
        else:
            self.group = cast(_Collectives, dist.ProcessGroupGloo(*place, limit))

    def wait(self, work: dist.Work, tick: int) -> None:
        """Wait for a transfer. Raises PeerError naming the stage and the tick.

        On a GPU its stream waits in its place, and NCCL's own watchdog ends a process whose transfer is stuck.
        """
        try:
            work.wait() if self._on_gpu else work.wait(self._deadline)
        except RuntimeError as error:
            raise replicas_failed(self._stage, tick, self._deadline.total_seconds(), error) from error

    def gather(self, own: Tensor, tick: int) -> list[Tensor]:
        """Give the other replicas a tensor, and get those of all, in their order. Raises PeerError as `wait`."""
        found = own.new_empty(self.count * own.shape[0], *own.shape[1:])
        self.wait(self.group._allgather_base(found, own), tick)
        return list(found.split(own.shape[0]))

    def share_buffers(self, blocks: nn.Module) -> None:
        """Give every replica the buffers of replica 0, such as a batch normalisation's running statistics."""
        for buffer in blocks.buffers():
            self.wait(self.group.broadcast(buffer, 0), 0)


def _check_devices(me: Membership) -> None:
    if not me.own_devices:
        raise ConfigError(
            "replicas on CUDA average their gradients with NCCL, which needs a device for every stage of every "
            'replica: lower replicas or stages, or set device = "cpu"'
        )


class GradientMean:
    """Implements `Mean` of common/rule/stage.py over a group of replicas."""

    def __init__(
        self, group: ReplicaGroup, parameters: Sequence[nn.Parameter], tick: Callable[[], int], work: WorkClock
    ) -> None:
        """Watch the parameters' gradients. `tick` returns the current one, for error messages.

        The time that `finish` takes is added to `work`.
        """
        self._tick, self._work = tick, work
        self._buckets = [_Bucket(group, own) for own in _in_buckets(parameters)]
        self._sent = 0  # buckets, which leave in their order in every replica
        self._watching = False
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def begin(self) -> None:
        """Start to watch the gradients."""
        self._watching = True

    def finish(self) -> None:
        """Wait for the other replicas, and replace every gradient by its mean. Raises PeerError."""
        start = clock()
        for bucket in self._buckets[self._sent :]:
            bucket.send()  # some of its parameters have no gradient
        self._watching, self._sent = False, 0
        tick = self._tick()
        for bucket in self._buckets:
            bucket.add(tick)
        for bucket in self._buckets:
            bucket.take(tick)
        self._work.add(_WAIT, start)

    def _hook(self, bucket: "_Bucket") -> Callable[[Tensor], None]:
        def ready(parameter: Tensor) -> None:
            if self._watching:
                bucket.missing -= 1
                while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
                    self._buckets[self._sent].send()
                    self._sent += 1

        return ready


class _Bucket:
    """Some parameters, of one device and dtype, whose gradients are sent together.

    Attributes:
        parameters: in the order of the memory.
        missing: number of gradients that are not complete yet.
    """

    def __init__(self, group: ReplicaGroup, parameters: list[nn.Parameter]) -> None:
        self.parameters, self._group = parameters, group
        size = sum(parameter.numel() for parameter in parameters)
        part = -(-size // group.count)
        own = torch.zeros(part * group.count, dtype=parameters[0].dtype, device=parameters[0].device)
        self._sent, self._received, self._mean = own, torch.zeros_like(own), torch.zeros_like(own)
        self._parts, self._own_mean = list(self._received.split(part)), own.new_zeros(part)
        self._views = _views(self._sent, parameters)
        self._means = _views(self._mean, parameters)
        self.missing = len(parameters)
        self._work: dist.Work | None = None

    def send(self) -> None:
        """Send each replica its part of the gradients."""
        if any(parameter.grad is None for parameter in self.parameters):
            self._sent.zero_()
        _copy(self._views, [parameter.grad for parameter in self.parameters])
        self._work = self._group.group.alltoall_base(self._received, self._sent, [], [])

    def add(self, tick: int) -> None:
        """Add the parts that this replica was sent, and send their mean to all."""
        assert self._work is not None
        self._group.wait(self._work, tick)
        mean_of(self._parts, self._own_mean)
        self._work = self._group.group._allgather_base(self._mean, self._own_mean)

    def take(self, tick: int) -> None:
        """Wait for the means, and make them the gradients."""
        assert self._work is not None
        self._group.wait(self._work, tick)
        self._work, self.missing = None, len(self.parameters)
        for parameter, mean in zip(self.parameters, self._means, strict=True):
            if parameter.grad is None and mean.any():  # another replica has one
                parameter.grad = torch.empty_like(parameter)
        _copy([parameter.grad for parameter in self.parameters], self._means)


def _copy(to: Sequence[Tensor | None], sources: Sequence[Tensor | None]) -> None:
    """Copy each tensor, in one call; pairs of which one is missing are left out."""
    pairs = [(own, source) for own, source in zip(to, sources, strict=True) if own is not None and source is not None]
    if pairs:
        torch._foreach_copy_([own for own, _ in pairs], [source for _, source in pairs])


def _views(memory: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    ends = memory[: sum(parameter.numel() for parameter in parameters)].split([p.numel() for p in parameters])
    return [end.view(parameter.shape) for end, parameter in zip(ends, parameters, strict=True)]


def _in_buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """From the last parameter to the first, in groups of one dtype and of about `_BUCKET` bytes."""
    buckets: list[list[nn.Parameter]] = []
    size, kind = 0, None
    for parameter in reversed(parameters):
        bytes_of = parameter.numel() * parameter.element_size()
        if not buckets or kind != parameter.dtype or size + bytes_of > _BUCKET:
            buckets.append([])
            size, kind = 0, parameter.dtype
        buckets[-1].append(parameter)
        size += bytes_of
    return buckets
