"""One class for each clip or frame: cross entropy; top-1, top-5, mean over classes of their accuracies, loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config.settings import TaskName
from common.rule.clip_sums import Scores
from common.rule.tasks.losses import Loss
from common.rule.tasks.task import Figures, Task


class Classification(Task):
    """`task = "classify"`."""

    name: TaskName = "classify"
    names = ("top1", "top5", "mean_class", "loss")
    smaller = ("loss",)
    has_classes = True

    def __init__(self, classes: int, loss: Loss) -> None:
        self.loss, self._classes = loss, classes

    def correct(self, y: Tensor, target: Tensor) -> Tensor:
        """The number of rows whose highest output is that of their class."""
        return (y.argmax(1) == target).sum()

    def answers(self, y: Tensor) -> Tensor:
        """The softmax; without the outputs of a published model that stand for no class."""
        return y.double().softmax(1)[:, : self._classes]

    def figures(self, scores: Scores) -> Figures:
        """Top-1, top-5, the accuracy of each class averaged over the classes that have clips, and the cross entropy.

        The cross entropy is of a clip's answer, so it does without class weights and label smoothing.
        """
        means = scores.means
        answered = means.isfinite().all(1)  # a model that has diverged is right about nothing

        def top(k: int) -> float:
            best = means.topk(min(k, means.shape[1])).indices
            return float(((best == scores.labels[:, None]).any(1) & answered).double().mean())

        confusion = _confusion(scores.labels, means)
        values = {
            "top1": top(1),
            "top5": top(5),
            "mean_class": _mean_class(confusion),
            "loss": _loss(means, scores.labels),
        }
        return Figures(values, confusion)

    def misfit(self, shape: Sequence[int], frames: Sequence[int]) -> str:
        """The output must be logits [slots, classes]."""
        if len(shape) == 2 and shape[1] >= self._classes:
            return ""
        return (
            f'task = "classify" needs logits [{frames[0]}, {self._classes} classes], but the model\'s output is '
            f"{list(shape)}: change the model or its model_args"
        )

    def surplus(self, shape: Sequence[int]) -> str:
        """More logits than classes, as of a published model."""
        if shape[1] == self._classes:
            return ""
        return (
            f"the model has {shape[1]} outputs for {self._classes} classes: the others stand for no class, and only "
            f"learn to stay low. Unless that is intended, leave classes out of model_args, or build a model with as "
            f"many outputs as there are classes"
        )


def _confusion(labels: Tensor, means: Tensor) -> Tensor:
    classes = means.shape[1]
    predicted = means.topk(1).indices[:, 0]  # breaks ties as top-1 does
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _loss(means: Tensor, labels: Tensor) -> float:
    """The mean over clips of -log of the score of the class."""
    right = means[torch.arange(len(labels)), labels]
    return float(-right.clamp_min(torch.finfo(right.dtype).tiny).double().log().mean())


def _mean_class(confusion: Tensor) -> float:
    clips = confusion.sum(1)
    return float((confusion.diagonal()[clips > 0] / clips[clips > 0]).double().mean())
