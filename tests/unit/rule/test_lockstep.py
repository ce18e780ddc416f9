"""Replicas that give each other tensors."""

from functools import partial

import pytest
import torch
from torch import Tensor

from common.rule.lockstep import Lockstep


def test_each_gets_what_all_have_given_in_their_order() -> None:
    lockstep = Lockstep(3)

    def work(replica: int) -> list[list[float]]:
        return [
            torch.cat(lockstep.gather(replica, torch.tensor([10.0 * step + replica]))).tolist() for step in range(4)
        ]

    for _ in range(2):
        found = lockstep.run([partial(work, replica) for replica in range(3)])
        assert found == [[[10.0 * step + replica for replica in range(3)] for step in range(4)]] * 3


def test_each_keeps_its_random_numbers() -> None:
    lockstep = Lockstep(2)

    def work(replica: int) -> Tensor:
        torch.manual_seed(replica)
        lockstep.gather(replica, torch.zeros(1))
        return torch.rand(3)

    found = lockstep.run([partial(work, replica) for replica in range(2)])
    for replica in range(2):
        torch.manual_seed(replica)
        assert torch.equal(found[replica], torch.rand(3))


def test_each_computes_with_as_many_threads_as_the_caller() -> None:
    found = Lockstep(2).run([torch.get_num_threads] * 2)
    assert found == [torch.get_num_threads()] * 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_error_of_one_ends_all(failing: int) -> None:
    lockstep = Lockstep(3)

    def work(replica: int) -> None:
        lockstep.gather(replica, torch.zeros(1))
        if replica == failing:
            raise ValueError("one")
        lockstep.gather(replica, torch.zeros(1))

    with pytest.raises(ValueError, match="one"):
        lockstep.run([partial(work, replica) for replica in range(3)])
