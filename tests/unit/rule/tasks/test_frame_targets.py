"""Frames as targets; the error is in tests/unit/rule/test_clip_sums.py."""

import torch.nn.functional as F

from common.rule.tasks.frame_targets import FrameTargets


def test_the_output_must_be_a_frame() -> None:
    task = FrameTargets("autoencode", F.mse_loss)
    assert task.misfit([4, 3, 8, 8], [4, 3, 8, 8]) == ""
    assert "compares the model's output with a frame" in task.misfit([4, 3, 4, 4], [4, 3, 8, 8])
