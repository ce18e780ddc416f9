"""The loss of rows of which some have no target."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.rule.loss import Objective, Target
from common.rule.packet import Packet
from common.rule.tasks.classification import Classification
from common.rule.tasks.frame_targets import FrameTargets
from common.rule.tasks.multilabel import MultiLabel
from common.rule.tasks.regression import Regression
from common.rule.tasks.task import Task

ROWS = 4
NONE = math.nan
TASKS: dict[str, tuple[Task, list[object]]] = {
    "classify": (Classification(3, F.cross_entropy), [2, -1, 0, -1]),
    "multilabel": (
        MultiLabel(3, F.binary_cross_entropy_with_logits),
        [[1.0, 0.0, 1.0], [NONE] * 3, [0.0, 0.0, 0.0], [NONE] * 3],
    ),
    "regress": (Regression(3, F.mse_loss), [[0.5, 2.0, -1.0], [NONE] * 3, [0.0, 1.0, 3.0], [NONE] * 3]),
}


def held_with(task: Task, labels: list[object]) -> Packet:
    packet = Packet((ROWS, 3), labels=task.form)
    packet.clips[:], packet.labels[:] = range(ROWS), labels
    return packet


@pytest.mark.parametrize("name", TASKS)
def test_rows_without_a_label_count_as_zero(name: str) -> None:
    task, labels = TASKS[name]
    objective, held = Objective(task), held_with(task, labels)
    torch.manual_seed(0)
    y = torch.randn(ROWS, 3, requires_grad=True)
    loss = objective(y, held, None)
    loss.backward()
    plain = y.detach().clone().requires_grad_()
    expected = task.loss(plain[[0, 2]], held.label_tensor[[0, 2]]) / 2  # two of four rows
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(y.grad, plain.grad)
    assert objective.counted == 2


@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_add_up(name: str) -> None:
    task, labels = TASKS[name]
    held, y = held_with(task, labels), torch.randn(ROWS, 3)
    whole, parts = Objective(task), Objective(task)
    sum_of_parts: Tensor = sum((parts(y[i : i + 1], held, None, slice(i, i + 1)) for i in range(ROWS)), torch.zeros(()))
    torch.testing.assert_close(sum_of_parts / ROWS, whole(y, held, None))
    assert (parts.counted, parts.correct) == (whole.counted, whole.correct)


def test_without_any_label_the_loss_and_its_gradient_are_zero() -> None:
    task, _ = TASKS["classify"]
    y = torch.randn(ROWS, 3, requires_grad=True)
    loss = Objective(task)(y, held_with(task, [-1] * ROWS), None)
    loss.backward()
    assert float(loss) == 0.0
    assert y.grad is not None
    assert not y.grad.any()


def test_a_frame_of_another_clip_is_no_target() -> None:
    objective = Objective(FrameTargets("predict", F.mse_loss))
    held = Packet((2, 3))
    held.clips[:] = [5, 6]
    y, frames = torch.zeros(2, 3), torch.tensor([[1.0] * 3, [7.0] * 3])
    other = held.clips.copy()
    other[1] = 9
    assert float(objective(y, held, Target(frames, held.clips))) == pytest.approx((1 + 49) / 2)
    assert float(objective(y, held, Target(frames, other))) == 0.5
