"""What classification says of a model's output; its figures: tests/unit/monitor/test_evaluation_scores.py."""

import torch
import torch.nn.functional as F

from common.rule.tasks.classification import Classification

TASK = Classification(3, F.cross_entropy)


def test_rows_of_the_right_class_are_counted() -> None:
    y = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert int(TASK.correct(y, torch.tensor([0, 1, 1]))) == 2
    torch.testing.assert_close(TASK.answers(y).sum(1), torch.ones(3).double())


def test_there_may_be_more_logits_than_classes_but_not_fewer() -> None:
    assert TASK.misfit([4, 3], [4, 3, 8, 8]) == TASK.misfit([4, 1000], [4, 3, 8, 8]) == ""
    assert "needs logits [4, 3 classes]" in TASK.misfit([4, 2], [4, 3, 8, 8])


def test_outputs_that_stand_for_no_class_are_in_no_answer() -> None:
    y = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    torch.testing.assert_close(TASK.answers(y), y.double().softmax(1)[:, :3])
