"""Any number of classes for each clip or frame: binary cross entropy; mean average precision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.config.settings import TaskName
from common.rule.clip_sums import Scores
from common.rule.label_form import form_of
from common.rule.tasks.losses import Loss
from common.rule.tasks.task import Figures, Task


class MultiLabel(Task):
    """`task = "multilabel"`. A label is 1 for each class that applies, else 0."""

    name: TaskName = "multilabel"
    names = ("map", "accuracy")
    has_classes = True

    def __init__(self, classes: int, loss: Loss) -> None:
        self.loss, self._classes, self.form = loss, classes, form_of(self.name, classes)

    def correct(self, y: Tensor, target: Tensor) -> Tensor:
        """The sum over rows of the share of classes that are right, at a score of 0.5."""
        return ((y > 0) == (target > 0.5)).float().mean(1).sum()

    def answers(self, y: Tensor) -> Tensor:
        """The sigmoid."""
        return y.double().sigmoid()

    def figures(self, scores: Scores) -> Figures:
        """The mean over classes of their average precision, and the share of right decisions at a score of 0.5."""
        means, labels = scores.means, scores.labels > 0.5
        right = float(((means > 0.5) == labels).double().mean())
        precision = mean_average_precision(means, labels)
        return Figures({**({} if precision is None else {"map": precision}), "accuracy": right})

    def misfit(self, shape: Sequence[int], frames: Sequence[int]) -> str:
        """The output must be logits [slots, classes], with as many as there are classes."""
        if list(shape[1:]) == [self._classes]:
            return ""
        return (
            f'task = "multilabel" needs logits [{frames[0]}, {self._classes} classes], but the model\'s output is '
            f"{list(shape)}: change the model or its model_args"
        )


def mean_average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """The mean over the classes that occur of their average precision; None if none occurs.

    A class's average precision is the sum over the distinct scores, from the highest, of precision × growth of recall.

    Args:
        scores: float [n, classes].
        labels: bool [n, classes].
    """
    found = [_average_precision(scores[:, kind], labels[:, kind]) for kind in range(scores.shape[1])]
    found = [each for each, occurs in zip(found, labels.any(0).tolist(), strict=True) if occurs]
    return sum(found) / len(found) if found else None


def _average_precision(scores: Tensor, labels: Tensor) -> float:
    ranked, order = scores.sort(descending=True)
    hits = labels[order].double().cumsum(0)
    last = torch.cat([ranked.diff() != 0, torch.ones(1, dtype=torch.bool)])  # of each distinct score
    hits, ranks = hits[last], torch.arange(1, len(scores) + 1)[last]
    growth = hits.diff(prepend=hits.new_zeros(1))
    return float((growth * hits / ranks).sum() / hits[-1])
