"""The tasks of a run: `task_of` creates the one that its settings name."""

from torch import Tensor

from common.config.settings import Config
from common.rule.tasks.classification import Classification
from common.rule.tasks.frame_targets import FrameTargets
from common.rule.tasks.losses import Loss, loss_of
from common.rule.tasks.multilabel import MultiLabel
from common.rule.tasks.regression import Regression
from common.rule.tasks.task import Task


def task_of(config: Config, classes: int) -> Task:
    """The task of a run. `classes`: number of classes, or of a label's numbers.

    Raises:
        ConfigError: the user's own loss cannot be loaded.
    """
    return with_loss(config, classes, loss_of(config))


def with_loss(config: Config, classes: int, loss: Loss) -> Task:
    """The task of a run with a given loss."""
    if config.task == "classify":
        return Classification(classes, loss)
    if config.task == "multilabel":
        return MultiLabel(classes, loss)
    if config.task == "regress":
        return Regression(classes, loss)
    return FrameTargets(config.task, loss)


def without_loss(config: Config, classes: int) -> Task:
    """The task of a run for all but training: the user's own loss is not loaded."""
    return with_loss(config, classes, _not_loaded)


def _not_loaded(y: Tensor, target: Tensor) -> Tensor:
    raise AssertionError("this task is not for training")
