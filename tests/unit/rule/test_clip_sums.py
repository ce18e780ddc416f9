"""Sums over each clip's frames."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.config.settings import Answer
from common.rule.clip_sums import ClipSums
from common.rule.packet import NO_CLIP
from common.rule.tasks.classification import Classification
from common.rule.tasks.frame_targets import FrameTargets
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


def test_rows_with_a_target_of_another_clip_are_left_out() -> None:
    sums, labels, clips = ClipSums(), np.zeros(2, np.int64), np.array([0, 1])
    sums.add_outputs(clips, labels, torch.zeros(2, 4), torch.ones(2, 4), np.array([0, 2]))
    assert sums.scores().clips.tolist() == [0]
