"""Several classes at once."""

import pytest
import torch
import torch.nn.functional as F

import common.torchvision_import  # noqa: F401  makes torchvision importable, which torchmetrics imports
from common.rule.clip_sums import Scores
from common.rule.tasks.multilabel import MultiLabel

TASK = MultiLabel(5, F.binary_cross_entropy_with_logits)


def scores_of(values: torch.Tensor, labels: torch.Tensor) -> Scores:
    count = len(values)
    return Scores(torch.arange(count), labels.float(), torch.full((count,), 2), 2 * values.double())


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_average_precision_equals_torchmetrics(ties: bool) -> None:
    from torchmetrics.functional.classification import multilabel_average_precision

    torch.manual_seed(0)
    values, labels = torch.rand(60, 5), torch.rand(60, 5) < torch.tensor([0.1, 0.3, 0.5, 0.9, 0.0])
    values = (values + 0.4 * labels) / 1.4
    values = (10 * values).round() / 10 if ties else values
    each = multilabel_average_precision(values, labels.long(), 5, average="none")
    found = TASK.figures(scores_of(values, labels)).values
    assert found["map"] == pytest.approx(float(each[:4].mean()))  # the last class never occurs
    assert found["accuracy"] == pytest.approx(float(((values > 0.5) == labels).float().mean()))


def test_without_positives_there_is_no_mean_average_precision() -> None:
    assert "map" not in TASK.figures(scores_of(torch.rand(4, 5), torch.zeros(4, 5))).values


def test_the_share_of_right_classes_is_counted() -> None:
    y, target = torch.tensor([[1.0, -1.0, 1.0, 1.0], [1.0] * 4]), torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0] * 4])
    assert float(TASK.correct(y, target)) == 0.75
    assert TASK.misfit([4, 5], [4, 3, 8, 8]) == ""
    assert "needs logits [4, 5 classes]" in TASK.misfit([4, 6], [4, 3, 8, 8])
