"""Figures of an evaluation, from the sums that the top stage gathered.

Protocol: every frame of every validation clip once, no augmentation, frozen weights, softmax averaged over a clip's
frames, top-1 and top-5 over clips. Autoencoding: the squared error averaged over a clip's pixels, then over clips.
"""

from dataclasses import dataclass

from common.control import Scores
from common.stage import Task


@dataclass(frozen=True)
class Evaluation:
    """What the validation clips say. Shares of clips; None where the task has no such figure."""

    clips: int
    frames: int
    top1: float | None = None
    top5: float | None = None
    mse: float | None = None


def judge(scores: Scores, task: Task) -> Evaluation:
    """Turn sums into figures."""
    clips, frames = len(scores.clips), int(scores.frames.sum())
    if clips == 0:
        return Evaluation(0, 0)
    means = scores.sums / scores.frames[:, None]
    if task == "autoencode":
        return Evaluation(clips, frames, mse=float(means.mean()))

    def top(k: int) -> float:
        best = means.topk(min(k, means.shape[1])).indices
        return float((best == scores.labels[:, None]).any(1).double().mean())

    return Evaluation(clips, frames, top1=top(1), top5=top(5))
