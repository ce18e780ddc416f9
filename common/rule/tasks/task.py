"""What a run learns: the form of its targets, the loss, and the figures of an evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from common.config.settings import TaskName
from common.rule.clip_sums import Scores
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.tasks.losses import Loss


@dataclass(frozen=True)
class Figures:
    """The figures of an evaluation.

    Attributes:
        values: by name, such as top1.
        confusion: numbers of clips or frames, int64 [classes, classes]: rows are true classes, columns predicted ones;
            None for tasks that have none.
    """

    values: dict[str, float]
    confusion: Tensor | None = field(default=None, compare=False, repr=False)


class Task(ABC):
    """A task.

    Attributes:
        name: of the setting `task`.
        form: of a row's label, which is sent with the row.
        loss: of rows that have a target.
        names: the figures of an evaluation, the one first by which the best checkpoint is kept.
        smaller: those of them that are errors, so smaller is better.
        has_classes: whether `correct` means anything.
    """

    name: TaskName
    form: LabelForm = ONE_CLASS
    loss: Loss
    names: Sequence[str]
    smaller: Sequence[str] = ()
    has_classes = False

    def correct(self, y: Tensor, target: Tensor) -> Tensor:
        """The sum over rows of the share of their labels that the outputs get right, a 0-d tensor."""
        raise NotImplementedError

    @abstractmethod
    def answers(self, y: Tensor) -> Tensor:
        """What outputs say, float64 [rows, …]: scores of classes, which add up over a clip's frames, or numbers."""

    @abstractmethod
    def figures(self, scores: Scores) -> Figures:
        """The figures of an evaluation of at least one clip."""

    @abstractmethod
    def misfit(self, shape: Sequence[int], frames: Sequence[int]) -> str:
        """Why a model's output does not fit, with a remedy; empty if it does.

        `shape` is the output's, `frames` the frame batch's.
        """

    def surplus(self, shape: Sequence[int]) -> str:
        """What to say about an output of this shape that fits, but has more numbers than are needed; empty if not."""
        return ""
