"""The tasks of a run: `task_of` creates the one that its settings name."""

import torch.nn.functional as F

from common.config.settings import Config
from common.rule.cross_entropy import cross_entropy_of
from common.rule.tasks.classification import Classification
from common.rule.tasks.frame_targets import FrameTargets
from common.rule.tasks.multilabel import MultiLabel
from common.rule.tasks.regression import Regression
from common.rule.tasks.task import Task


def task_of(config: Config, classes: int) -> Task:
    """The task of a run. `classes`: number of classes, or of a label's numbers."""
    if config.task == "classify":
        return Classification(classes, cross_entropy_of(config))
    if config.task == "multilabel":
        return MultiLabel(classes, F.binary_cross_entropy_with_logits)
    if config.task == "regress":
        return Regression(classes, F.mse_loss)
    return FrameTargets(config.task, F.mse_loss)
