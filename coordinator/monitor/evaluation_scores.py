"""The scores of an evaluation, from sums over each clip's frames.

Protocol: every frame of every validation clip once, no augmentation, frozen weights, softmax averaged over a clip's
frames, top-1 and top-5 over clips, and the mean over classes of each class's accuracy.
For the other tasks: the squared error averaged over a frame's pixels, then over a clip's frames, then over clips.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.config.settings import Task
from common.rule.clip_sums import Scores


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation, as fractions of clips; None for scores that the task does not have.

    Attributes:
        mean_class: mean of the classes' accuracies, over the classes that have clips.
        confusion: numbers of clips, int64 [classes, classes]: rows are true classes, columns predicted ones.
    """

    clips: int
    frames: int
    top1: float | None = None
    top5: float | None = None
    mse: float | None = None
    mean_class: float | None = None
    confusion: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def score(self) -> float | None:
        """Top-1, or minus the squared error: larger is better. None if nothing was evaluated or it is not finite."""
        figure = self.top1 if self.mse is None else -self.mse
        return figure if figure is not None and math.isfinite(figure) else None


def evaluation_of(scores: Scores, task: Task) -> Evaluation:
    """Compute the scores from the sums."""
    clips, frames = len(scores.clips), int(scores.frames.sum())
    if clips == 0:
        return Evaluation(0, 0)
    means = scores.sums / scores.frames[:, None]
    if task != "classify":
        return Evaluation(clips, frames, mse=float(means.mean()))

    def top(k: int) -> float:
        best = means.topk(min(k, means.shape[1])).indices
        return float((best == scores.labels[:, None]).any(1).double().mean())

    confusion = _confusion(scores.labels, means)
    return Evaluation(clips, frames, top1=top(1), top5=top(5), mean_class=_mean_class(confusion), confusion=confusion)


def _confusion(labels: Tensor, means: Tensor) -> Tensor:
    classes = means.shape[1]
    predicted = means.topk(1).indices[:, 0]  # breaks ties as top-1 does
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _mean_class(confusion: Tensor) -> float:
    clips = confusion.sum(1)
    return float((confusion.diagonal()[clips > 0] / clips[clips > 0]).double().mean())
