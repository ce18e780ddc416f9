"""An evaluation's figures from its sums."""

import numpy as np
import pytest
import torch

import common.torchvision_import  # noqa: F401  makes torchvision importable, which torchmetrics imports
from common.messages.stage_calls import Scores
from common.rule.loss import Target
from common.rule.packet import Packet
from coordinator.monitor.evaluation_scores import evaluation_of
from stage_worker.evaluation import ClipSums


def test_softmax_is_averaged_over_a_clips_frames() -> None:
    tally, held = ClipSums(), Packet((3, 7))
    held.labels[:] = [2, 0, -1]
    logits = torch.randn(4, 3, 7)
    for tick, clips in enumerate(([5, 9, -1], [5, 9, -1], [5, -1, -1], [5, -1, -1])):
        held.clips[:] = clips
        tally.add(held, logits[tick], None)
    scores = tally.scores()
    assert scores.clips.tolist() == [5, 9]
    assert scores.frames.tolist() == [4, 2]
    assert scores.labels.tolist() == [2, 0]
    softmax = logits.double().softmax(2)
    torch.testing.assert_close(scores.sums[0] / 4, softmax[:, 0].mean(0))
    torch.testing.assert_close(scores.sums[1] / 2, softmax[:2, 1].mean(0))


def test_top1_and_top5_over_clips() -> None:
    ranks = [0, 3, 4, 5]  # place of the right class in each clip's ranking
    sums = torch.linspace(1, 0, 8).repeat(4, 1).double() * torch.tensor([1, 10, 3, 7])[:, None]
    scores = Scores(torch.arange(4), torch.tensor(ranks), torch.tensor([1, 10, 3, 7]), sums)
    evaluation = evaluation_of(scores, "classify")
    assert (evaluation.top1, evaluation.top5, evaluation.clips, evaluation.frames) == (0.25, 0.75, 4, 21)


def test_fewer_than_five_classes() -> None:
    scores = Scores(torch.arange(2), torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64), torch.eye(2).double())
    assert evaluation_of(scores, "classify").top5 == 1.0


def test_squared_error_is_averaged_over_pixels_then_frames_then_clips() -> None:
    tally, held = ClipSums(), Packet((2, 4))
    held.clips[:], held.labels[:] = [0, 1], [0, 0]
    tally.add(held, torch.zeros(2, 4), Target(torch.tensor([[1.0] * 4, [3.0] * 4]), held.clips.copy()))
    held.clips[:] = [0, -1]
    tally.add(held, torch.zeros(2, 4), Target(torch.tensor([[2.0] * 4, [100.0] * 4]), held.clips.copy()))
    evaluation = evaluation_of(tally.scores(), "autoencode")
    assert evaluation.mse == pytest.approx(np.mean([(1 + 4) / 2, 9]))
    assert evaluation.top1 is None


def test_no_clips() -> None:
    assert evaluation_of(ClipSums().scores(), "classify").top1 is None


def test_the_figures_are_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    torch.manual_seed(0)
    labels, sums = torch.randint(0, 6, (200,)), torch.rand(200, 7).double()  # nothing is of the last class
    sums[:100][torch.arange(100), labels[:100]] += 0.5
    ours = evaluation_of(Scores(torch.arange(200), labels, torch.ones(200, dtype=torch.int64), sums), "classify")
    assert ours.confusion is not None
    assert torch.equal(ours.confusion, multiclass_confusion_matrix(sums, labels, 7))
    assert ours.top1 == pytest.approx(float(multiclass_accuracy(sums, labels, 7, "micro")))
    assert ours.top5 == pytest.approx(float(multiclass_accuracy(sums, labels, 7, "micro", top_k=5)))
    each = multiclass_accuracy(sums, labels, 7, average="none")
    assert ours.mean_class == pytest.approx(float(each[:6].mean()))


def test_among_equals_confusion_and_top1_agree() -> None:
    scores = Scores(torch.arange(2), torch.tensor([0, 1]), torch.ones(2, dtype=torch.int64), torch.ones(2, 3).double())
    evaluation = evaluation_of(scores, "classify")
    assert evaluation.confusion is not None
    assert evaluation.top1 == float(evaluation.confusion.diagonal().sum()) / 2
