"""Figures of an evaluation, from sums over each clip's frames.

Protocol: every frame of every validation clip once, no augmentation, frozen weights, softmax averaged over a clip's
frames, top-1 and top-5 over clips, the mean over classes of the share of a class's clips that are classified right.
Otherwise: the squared error averaged over a frame's pixels, then over a clip's frames, then over clips.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.config.settings import Task
from common.rule.clip_sums import Scores


@dataclass(frozen=True)
class Evaluation:
    """What the validation clips say. Shares of clips; None where the task has no such figure.

    Attributes:
        mean_class: the mean over the classes that have clips.
        confusion: clips, int64 [classes, classes]: row the class they are of, column the class they are taken for.
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
        """Larger is better; None where nothing was evaluated, or the figure is no number."""
        figure = self.top1 if self.mse is None else -self.mse
        return figure if figure is not None and math.isfinite(figure) else None


def evaluation_of(scores: Scores, task: Task) -> Evaluation:
    """Turn sums into figures."""
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
    taken_for = means.topk(1).indices[:, 0]  # as top-1, also among equals
    return torch.bincount(labels * classes + taken_for, minlength=classes**2).reshape(classes, classes)


def _mean_class(confusion: Tensor) -> float:
    clips = confusion.sum(1)
    return float((confusion.diagonal()[clips > 0] / clips[clips > 0]).double().mean())
