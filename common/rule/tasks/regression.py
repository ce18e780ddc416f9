"""Numbers for each clip or frame, such as a position: squared error; mean squared and absolute error, R²."""

from collections.abc import Sequence

from torch import Tensor

from common.config.settings import TaskName
from common.rule.clip_sums import Scores
from common.rule.label_form import form_of
from common.rule.tasks.losses import Loss
from common.rule.tasks.task import Figures, Task


class Regression(Task):
    """`task = "regress"`."""

    name: TaskName = "regress"
    names = ("mse", "mae", "r2")
    smaller = ("mse", "mae")

    def __init__(self, numbers: int, loss: Loss) -> None:
        self.loss, self._numbers, self.form = loss, numbers, form_of(self.name, numbers)

    def answers(self, y: Tensor) -> Tensor:
        """The outputs."""
        return y.double()

    def figures(self, scores: Scores) -> Figures:
        """The errors, and R² averaged over the numbers; it is left out where the targets do not vary."""
        target = scores.labels.double()
        error = scores.means - target
        values = {"mse": float(error.square().mean()), "mae": float(error.abs().mean())}
        variance = (target - target.mean(0)).square().sum(0)
        varies = variance > 0
        if varies.any():
            values["r2"] = float((1 - error.square().sum(0)[varies] / variance[varies]).mean())
        return Figures(values)

    def misfit(self, shape: Sequence[int], frames: Sequence[int]) -> str:
        """The output must be [slots, numbers]."""
        if list(shape[1:]) == [self._numbers]:
            return ""
        return (
            f'task = "regress" needs an output [{frames[0]}, {self._numbers} numbers], but the model\'s output is '
            f"{list(shape)}: change the model or its model_args"
        )
