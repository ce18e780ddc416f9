"""Targets as large as a frame, the frame itself or a later one: mean squared error."""

from collections.abc import Sequence

from torch import Tensor

from common.config.settings import TaskName
from common.rule.clip_sums import Scores
from common.rule.tasks.losses import Loss
from common.rule.tasks.task import Figures, Task


class FrameTargets(Task):
    """`task = "autoencode"` and `task = "predict"`. The targets are streamed to the top stage."""

    names = ("mse",)
    smaller = ("mse",)

    def __init__(self, name: TaskName, loss: Loss) -> None:
        self.name, self.loss = name, loss

    def answers(self, y: Tensor) -> Tensor:
        """The frames."""
        return y.double()

    def figures(self, scores: Scores) -> Figures:
        """The squared error averaged over a frame's pixels, then over a clip's frames, then over clips."""
        return Figures({"mse": float(scores.means.mean())})

    def misfit(self, shape: Sequence[int], frames: Sequence[int]) -> str:
        """The output must be a frame batch."""
        if list(shape) == list(frames):
            return ""
        return (
            f'task = "{self.name}" compares the model\'s output with a frame, but the output is {list(shape)} and the '
            f"frame {list(frames)}: change the model or data.size"
        )
