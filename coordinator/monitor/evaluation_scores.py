"""The scores of an evaluation, from sums over each clip's frames.

Protocol: every frame of every validation clip once, no augmentation, frozen weights; what the outputs say (softmax,
sigmoid, numbers) averaged over a clip's frames, and the task's figures over clips. With labels of frames, the figures
are over all labelled frames of all clips.
For frame-sized targets: the squared error averaged over a frame's pixels, then over a clip's frames, then over clips.
"""

import math
from dataclasses import dataclass, field

from torch import Tensor

from common.rule.clip_sums import Scores
from common.rule.tasks.task import Task


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation.

    Attributes:
        clips, frames: that were evaluated.
        figures: by name, such as top1, as far as they can be computed.
        score: of the figure that decides which checkpoint is the best, larger is better; None if nothing was evaluated
            or it is not finite.
        confusion: numbers of clips, int64 [classes, classes]: rows are true classes, columns predicted ones; None for
            tasks that have none.
    """

    clips: int
    frames: int
    figures: dict[str, float] = field(default_factory=dict)
    score: float | None = None
    confusion: Tensor | None = field(default=None, compare=False, repr=False)


def evaluation_of(scores: Scores, task: Task) -> Evaluation:
    """Compute the scores from the sums."""
    clips, frames = len(scores.clips.unique()), int(scores.frames.sum())
    if clips == 0:
        return Evaluation(0, 0)
    found = task.figures(scores)
    return Evaluation(clips, frames, found.values, _score(found.values, task), found.confusion)


def _score(figures: dict[str, float], task: Task) -> float | None:
    name = task.names[0]
    value = figures.get(name, math.nan)
    value = -value if name in task.smaller else value
    return value if math.isfinite(value) else None
