"""Sums over each clip's frames."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.config.settings import Answer
from common.rule.clip_sums import ClipSums, merged
from common.rule.label_form import LabelForm
from common.rule.packet import NO_CLIP
from common.rule.tasks.classification import Classification
from common.rule.tasks.frame_targets import FrameTargets
from common.rule.tasks.regression import Regression
from coordinator.monitor.evaluation_scores import evaluation_of

CLASSIFY = Classification(7, F.cross_entropy)


def test_softmax_is_averaged_over_a_clips_frames() -> None:
    sums, labels = ClipSums(), np.array([2, 0, -1])
    logits = torch.randn(4, 3, 7)
    for tick, clips in enumerate(([5, 9, -1], [5, 9, -1], [5, -1, -1], [5, -1, -1])):
        sums.add(np.array(clips), labels, CLASSIFY.answers(logits[tick]))
    scores = sums.scores()
    assert scores.clips.tolist() == [5, 9]
    assert scores.frames.tolist() == [4, 2]
    assert scores.labels.tolist() == [2, 0]
    softmax = logits.double().softmax(2)
    torch.testing.assert_close(scores.sums[0] / 4, softmax[:, 0].mean(0))
    torch.testing.assert_close(scores.sums[1] / 2, softmax[:2, 1].mean(0))


@pytest.mark.parametrize(("answer", "expected"), [("mean", [2.5, 1.5]), ("last", [4, 2]), (1, [3, 2]), (3, [4, 2])])
def test_a_clips_answer_may_leave_out_its_first_frames(answer: Answer, expected: list[float]) -> None:
    """The frames of one clip have the values 1 to 4, those of another 1 and 2; too short a clip gives its last."""
    sums = ClipSums(answer)
    for number in range(1, 5):
        clips = np.array([5, 9 if number < 3 else NO_CLIP])
        sums._add(clips, np.zeros(2, np.int64), torch.full((2, 1), float(number)), clips != NO_CLIP, sums._replaced)
    scores = sums.scores()
    assert (scores.sums[:, 0] / scores.frames).tolist() == expected


def test_squared_error_is_averaged_over_pixels_then_frames_then_clips() -> None:
    sums, labels, clips, zeros = ClipSums(), np.zeros(2, np.int64), np.array([0, 1]), torch.zeros(2, 4)
    sums.add_outputs(clips, labels, zeros, torch.tensor([[1.0] * 4, [3.0] * 4]), clips)
    clips = np.array([0, NO_CLIP])
    sums.add_outputs(clips, labels, zeros, torch.tensor([[2.0] * 4, [100.0] * 4]), clips)
    evaluation = evaluation_of(sums.scores(), FrameTargets("autoencode", F.mse_loss))
    assert evaluation.figures == {"mse": pytest.approx(np.mean([(1 + 4) / 2, 9]))}
    assert evaluation.score == -evaluation.figures["mse"]


def test_labelled_frames_count_one_by_one() -> None:
    form = LabelForm(2)
    sums, others = (ClipSums("mean", form, of_frames=True) for _ in range(2))
    torch.manual_seed(0)
    answers, labels = torch.randn(3, 3, 2).double(), np.random.default_rng(0).random((3, 3, 2), np.float32)
    labels[1, 0] = np.nan
    for tick in range(3):
        sums.add(np.array([5, 3, NO_CLIP]), labels[tick], answers[tick])
    others.add(np.array([4, NO_CLIP, NO_CLIP]), labels[0], answers[0])
    scores = merged([sums.scores(), others.scores()])
    assert scores.clips.tolist() == [3, 3, 3, 4, 5, 5]
    expected = [(0, 1), (1, 1), (2, 1), (0, 0), (0, 0), (2, 0)]  # tick and row
    torch.testing.assert_close(scores.means, torch.stack([answers[place] for place in expected]).float())
    assert scores.labels.tolist() == [labels[place].tolist() for place in expected]
    evaluation = evaluation_of(scores, Regression(2, F.mse_loss))
    assert (evaluation.clips, evaluation.frames) == (3, 6)
    error = [answers[place].numpy() - labels[place] for place in expected]
    assert evaluation.figures["mse"] == pytest.approx(np.mean(np.square(error)))


def test_rows_with_a_target_of_another_clip_are_left_out() -> None:
    sums, labels, clips = ClipSums(), np.zeros(2, np.int64), np.array([0, 1])
    sums.add_outputs(clips, labels, torch.zeros(2, 4), torch.ones(2, 4), np.array([0, 2]))
    assert sums.scores().clips.tolist() == [0]
