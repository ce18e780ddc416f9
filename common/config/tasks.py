"""The tasks, and the losses that each can have."""

from typing import Literal

TaskName = Literal["classify", "multilabel", "regress", "autoencode", "predict"]

_ERRORS = ("mse", "l1", "huber")
LOSSES: dict[TaskName, tuple[str, ...]] = {  # the default first
    "classify": ("cross_entropy",),
    "multilabel": ("bce",),
    "regress": _ERRORS,
    "autoencode": _ERRORS,
    "predict": _ERRORS,
}
