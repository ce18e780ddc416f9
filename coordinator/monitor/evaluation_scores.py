"""The scores of an evaluation, from sums over each clip's frames.

Protocol: every frame of every validation clip once, no augmentation, frozen weights; what the outputs say (softmax,
sigmoid, numbers) averaged over a clip's frames, and the task's figures over clips. With labels of frames, the figures
are over all labelled frames of all clips.
For frame-sized targets: the squared error averaged over a frame's pixels, then over a clip's frames, then over clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from common.errors import ConfigError
from common.rule.clip_sums import Scores
from common.rule.tasks.task import Task
from coordinator.monitor.val_metrics import Metric


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation.

    Attributes:
        clips, frames: that were evaluated.
        figures: by name, such as top1, as far as they can be computed.
        score: of the figure that decides which checkpoint is the best, larger is better; None if nothing was evaluated
            or it is not finite.
        problems: why figures could not be computed.
        confusion: numbers of clips, int64 [classes, classes]: rows are true classes, columns predicted ones; None for
            tasks that have none.
    """

    clips: int
    frames: int
    figures: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    problems: Sequence[str] = ()
    confusion: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Evaluator:
    """Computes the figures of a run's evaluations.

    Attributes:
        best: the figure that decides which checkpoint is the best.
        smaller: whether smaller is better.
    """

    task: Task
    metrics: Sequence[Metric]
    best: str
    smaller: bool

    @property
    def figure(self) -> str:
        """The setting checkpoint.best, in full."""
        return f"{'-' if self.smaller else ''}val_{self.best}"

    def evaluate(self, scores: Scores) -> Evaluation:
        """Compute the scores from the sums."""
        clips, frames = len(scores.clips.unique()), int(scores.frames.sum())
        if clips == 0:
            return Evaluation(0, 0)
        found, problems = self.task.figures(scores), list[str]()
        figures = dict(found.values)
        for metric in self.metrics:
            try:
                more = metric.figures(scores)
            except ConfigError as error:  # a training goes on without it
                problems.append(str(error))
                continue
            problems += [
                f"val_metrics: {metric.name} gives a figure {name!r}, but there is another of that name: give it "
                "another name"
                for name in more.keys() & figures.keys()
            ]
            figures |= {name: value for name, value in more.items() if name not in figures}
        if self.best not in (*figures, *self.task.names):
            problems.append(f"this evaluation has no {self.figure} (checkpoint.best), but {', '.join(figures)}")
        return Evaluation(clips, frames, figures, self._score(figures), problems, found.confusion)

    def _score(self, figures: dict[str, float]) -> float | None:
        value = figures.get(self.best, math.nan)
        value = -value if self.smaller else value
        return value if math.isfinite(value) else None


def evaluator(task: Task, metrics: Sequence[Metric] = (), best: str | None = None) -> Evaluator:
    """An evaluator.

    Args:
        best: the setting checkpoint.best: a figure, with or without `val_` before it; `-` before it: the smallest is
            best; default: the task's first figure.

    Raises:
        ConfigError: there is no such figure.
    """
    name = (best or task.names[0]).removeprefix("-").removeprefix("val_")
    errors = {*task.smaller, *(metric.name for metric in metrics if metric.smaller)}
    known = [*task.names, *(metric.name for metric in metrics)]
    if name not in known and not any(metric.named for metric in metrics):
        raise ConfigError(
            f'checkpoint.best = "{best}" is not a figure of this run: {", ".join(f"val_{each}" for each in known)}, or '
            "one of val_metrics"
        )
    return Evaluator(task, metrics, name, (best or "").startswith("-") or name in errors)


def evaluation_of(scores: Scores, task: Task) -> Evaluation:
    """The task's own figures."""
    return evaluator(task).evaluate(scores)
