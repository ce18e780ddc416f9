"""The mean of gradients over replicas, whose groups are threads of this process."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from common.errors import PeerError
from common.processes.membership import Member, Membership
from common.rule.replicas import mean_of
from common.telemetry.spans import Kind, WorkClock
from stage_worker import replicas
from stage_worker.replicas import GradientMean, ReplicaGroup

CPU = torch.device("cpu")


def members(count: int) -> list[Membership]:
    """The replicas of a single stage."""
    store, all_of = HashStore(), (Member("coordinator"), *[Member("stage")] * count)
    return [Membership(1 + number, all_of, store).arranged(count) for number in range(count)]


def at_once(count: int, work: Callable[[int, ReplicaGroup], Any], deadline: float = 20.0) -> list[Any]:
    """The results of a function in every replica; exceptions are results too."""
    results: list[Any] = [None] * count

    def run(me: Membership) -> None:
        try:
            results[me.of_replica] = work(me.of_replica, ReplicaGroup(me, CPU, deadline))
        except Exception as error:
            results[me.of_replica] = error

    threads = [threading.Thread(target=run, args=(me,)) for me in members(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))


def backward(blocks: nn.Module, replica: int) -> None:
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(replica))
    blocks(x).square().sum().backward()


@pytest.mark.parametrize("bucket", [1, 60, 1 << 20])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_replica_gets_the_same_mean(monkeypatch: pytest.MonkeyPatch, count: int, bucket: int) -> None:
    """However many buckets there are, and also where a gradient was accumulated before."""
    monkeypatch.setattr(replicas, "_BUCKET", bucket)

    models = [model() for _ in range(count)]  # the threads share the random generator

    def work(replica: int, group: ReplicaGroup) -> list[Tensor]:
        blocks = models[replica]
        mean = GradientMean(group, list(blocks.parameters()), lambda: 0, WorkClock())
        for _ in range(3):  # the memory is used again
            blocks.zero_grad()
            backward(blocks, 10 + replica)  # not watched: it only accumulates
            mean.begin()
            backward(blocks, replica)
            mean.finish()
        return [parameter.grad for parameter in blocks.parameters() if parameter.grad is not None]

    own = []
    for replica in range(count):
        blocks = model()
        backward(blocks, 10 + replica)
        backward(blocks, replica)
        own.append([parameter.grad for parameter in blocks.parameters() if parameter.grad is not None])
    expected = [mean_of(parts) for parts in zip(*own, strict=True)]
    for found in at_once(count, work):
        assert not isinstance(found, Exception), found
        assert all(map(torch.equal, found, expected))


def test_a_parameter_without_a_gradient_in_one_replica_gets_the_others() -> None:
    def work(replica: int, group: ReplicaGroup) -> list[Tensor | None]:
        first, second, third = (nn.Parameter(torch.ones(3)) for _ in range(3))
        mean = GradientMean(group, [first, second, third], lambda: 0, WorkClock())
        mean.begin()
        (first.sum() + (2 * second).sum() * replica if replica else first.sum()).backward()
        mean.finish()
        return [first.grad, second.grad, third.grad]

    for found in at_once(2, work):
        assert [None if gradient is None else gradient.tolist() for gradient in found] == [[1.0] * 3, [1.0] * 3, None]


def test_the_fast_replica_waits_for_the_slow_one_and_not_the_other_way() -> None:
    def work(replica: int, group: ReplicaGroup) -> float:
        parameter, clock = nn.Parameter(torch.ones(3)), WorkClock()
        mean = GradientMean(group, [parameter], lambda: 0, clock)
        mean.begin()
        if replica:
            time.sleep(0.5)
        parameter.sum().backward()
        mean.finish()
        return clock.seconds((Kind.WAIT_REPLICAS,))

    fast, slow = at_once(2, work)
    assert fast > 0.4
    assert 0 < slow < 0.3


def test_buffers_become_those_of_the_first_replica() -> None:
    def work(replica: int, group: ReplicaGroup) -> float:
        blocks = nn.BatchNorm1d(2)
        assert blocks.running_mean is not None
        blocks.running_mean.fill_(replica + 1)
        group.share_buffers(blocks)
        return float(blocks.running_mean[0])

    assert at_once(3, work) == [1.0, 1.0, 1.0]


def test_a_replica_that_does_not_come_is_reported_with_stage_and_tick() -> None:
    present = threading.Event()

    def work(replica: int, group: ReplicaGroup) -> None:
        parameter = nn.Parameter(torch.ones(3))
        mean = GradientMean(group, [parameter], lambda: 7, WorkClock())
        if replica:
            present.wait(10)
            return
        group._deadline = timedelta(seconds=0.2)
        mean.begin()
        parameter.sum().backward()
        try:
            mean.finish()
        finally:
            present.set()

    error, other = at_once(2, work)
    assert other is None
    assert isinstance(error, PeerError)
    assert str(error).startswith("stage 0, tick 7, taking the mean of the gradients with its replicas: no progress for")
