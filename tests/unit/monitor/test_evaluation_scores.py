"""The scores of an evaluation, computed from its sums."""

import math

import pytest
import torch
import torch.nn.functional as F

import common.torchvision_import  # noqa: F401  makes torchvision importable, which torchmetrics imports
from common.rule.clip_sums import ClipSums, Scores
from common.rule.tasks.classification import Classification
from coordinator.monitor.evaluation_scores import evaluation_of

CLASSIFY = Classification(7, F.cross_entropy)


def test_top1_and_top5_over_clips() -> None:
    ranks = [0, 3, 4, 5]  # position of the correct class in each clip's ranking
    sums = torch.linspace(1, 0, 8).repeat(4, 1).double() * torch.tensor([1, 10, 3, 7])[:, None]
    scores = Scores(torch.arange(4), torch.tensor(ranks), torch.tensor([1, 10, 3, 7]), sums)
    evaluation = evaluation_of(scores, CLASSIFY)
    assert (evaluation.clips, evaluation.frames, evaluation.score) == (4, 21, 0.25)
    assert (evaluation.figures["top1"], evaluation.figures["top5"]) == (0.25, 0.75)


def test_top5_with_fewer_than_five_classes() -> None:
    scores = Scores(torch.arange(2), torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64), torch.eye(2).double())
    assert evaluation_of(scores, CLASSIFY).figures["top5"] == 1.0


def test_the_loss_is_the_cross_entropy_of_the_mean_answer() -> None:
    sums = torch.tensor([[1.5, 0.5], [0.0, 3.0]]).double()
    evaluation = evaluation_of(Scores(torch.arange(2), torch.tensor([0, 0]), torch.tensor([2, 3]), sums), CLASSIFY)
    tiny = torch.finfo(torch.float64).tiny  # a score of 0 has a finite loss
    assert evaluation.figures["loss"] == pytest.approx(-(math.log(0.75) + math.log(tiny)) / 2)


def test_scores_without_clips() -> None:
    assert evaluation_of(ClipSums().scores(), CLASSIFY).score is None


def test_scores_equal_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    torch.manual_seed(0)
    labels, sums = torch.randint(0, 6, (200,)), torch.rand(200, 7).double()  # no clip is of the last class
    sums[:100][torch.arange(100), labels[:100]] += 0.5
    ours = evaluation_of(Scores(torch.arange(200), labels, torch.ones(200, dtype=torch.int64), sums), CLASSIFY)
    assert ours.confusion is not None
    assert torch.equal(ours.confusion, multiclass_confusion_matrix(sums, labels, 7))
    assert ours.figures["top1"] == pytest.approx(float(multiclass_accuracy(sums, labels, 7, "micro")))
    assert ours.figures["top5"] == pytest.approx(float(multiclass_accuracy(sums, labels, 7, "micro", top_k=5)))
    each = multiclass_accuracy(sums, labels, 7, average="none")
    assert ours.figures["mean_class"] == pytest.approx(float(each[:6].mean()))


def test_confusion_and_top1_agree_on_ties() -> None:
    scores = Scores(torch.arange(2), torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64), torch.ones(2, 3).double())
    evaluation = evaluation_of(scores, CLASSIFY)
    assert evaluation.confusion is not None
    assert evaluation.figures["top1"] == float(evaluation.confusion.diagonal().sum()) / 2
