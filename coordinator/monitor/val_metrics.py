"""Further figures of an evaluation (val_metrics): torchmetrics' by name, or the user's own functions.

torchmetrics is an optional dependency, and imported only where a setting names one of its classes: it takes seconds.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from pydantic.alias_generators import to_snake
from torch import Tensor

from common.errors import ConfigError
from common.models.user_code import is_reference, load_attribute, no_exit
from common.processes.user_errors import describe_error
from common.rule.clip_sums import Scores
from common.rule.tasks.task import Task

MOST = 20  # figures of one metric
_KINDS = {"classify": "multiclass", "multilabel": "multilabel"}  # torchmetrics' names of the tasks


@dataclass(frozen=True)
class Metric:
    """A figure, or several.

    Attributes:
        name: of the figure; if there are several, they have names of their own.
        smaller: whether smaller is better.
        compute: of answers, float [n, classes or numbers], labels, int64 [n] or float32 [n, width], and the clip of
            each, int64 [n].
        named: whether its figures' names are not known before they are computed.
    """

    name: str
    smaller: bool
    compute: Callable[[Tensor, Tensor, Tensor], object]
    named: bool = False

    def figures(self, scores: Scores) -> dict[str, float]:
        """Compute them. Raises ConfigError if the metric fails, or gives no numbers."""
        try:
            with no_exit(f"val_metrics: {self.name}"):
                found = self.compute(scores.means.float(), scores.labels, scores.clips)
            named = found if isinstance(found, Mapping) else {self.name: found}
            if len(named) > MOST:
                raise ConfigError(f"val_metrics: {self.name} gives {len(named)} figures: return {MOST} at most")
            return {_plain(name): float(torch.as_tensor(value).float().mean()) for name, value in named.items()}
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"val_metrics: {self.name} fails: {describe_error(error)}") from error


def _plain(name: object) -> str:
    return re.sub(r"\W", "_", str(name))[:80]


def metrics_of(settings: Sequence[str | dict[str, Any]], task: Task, classes: int) -> list[Metric]:
    """The metrics that `val_metrics` names.

    Args:
        classes: number of classes, or of a label's numbers.

    Raises:
        ConfigError: one is unknown or cannot be made, or has the name of another figure.
    """
    found = [_metric(setting, task, classes) for setting in settings]
    names = [*task.names, *(metric.name for metric in found if not metric.named)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"val_metrics: there are two figures {twice[0]!r}: give one a name of its own, such as "
            '{ metric = "MultilabelF1Score", threshold = 0.3, name = "f1_at_03" }'
        )
    return found


def _metric(setting: str | dict[str, Any], task: Task, classes: int) -> Metric:
    given = {"metric": setting} if isinstance(setting, str) else dict(setting)
    name = given.pop("metric", None)
    if not isinstance(name, str):
        raise ConfigError(
            f'val_metrics: {setting!r} names no metric: write "MulticlassF1Score", or a table such as '
            '{ metric = "MulticlassF1Score", average = "micro" }'
        )
    return _own(name, given) if is_reference(name) else _of_torchmetrics(name, given, task, classes)


def _own(name: str, arguments: dict[str, Any]) -> Metric:
    function = load_attribute(name, "val_metrics")
    takes_clips = _takes_clips(function, arguments)

    def compute(answers: Tensor, labels: Tensor, clips: Tensor) -> object:
        return function(answers, labels, *([clips] if takes_clips else []), **arguments)

    return Metric(name.rpartition(":")[2], False, compute, named=True)


def _takes_clips(function: Callable[..., Any], options: dict[str, Any]) -> bool:
    """Whether its third parameter is for the clips: it has that name, or is no option."""
    third = [*inspect.signature(function).parameters.values()][2:3]
    return any(own.name == "clips" or (own.name not in options and own.default is own.empty) for own in third)


def _of_torchmetrics(name: str, arguments: dict[str, Any], task: Task, classes: int) -> Metric:
    kind = _class_of(name)
    known = {"task": _KINDS.get(task.name), "num_classes": classes, "num_labels": classes, "num_outputs": classes}
    accepted = inspect.signature(kind).parameters
    own = str(arguments.pop("name", "") or to_snake(name))
    given = {key: value for key, value in known.items() if key in accepted and value is not None} | arguments
    try:
        made = kind(**given)
    except Exception as error:
        raise ConfigError(
            f"val_metrics: torchmetrics' {name} cannot be made with {given}: {error}. Its parameters: "
            f"{', '.join(accepted)}"
        ) from error

    def compute(answers: Tensor, labels: Tensor, clips: Tensor) -> object:
        made.reset()
        return made(answers, labels.long() if task.has_classes else labels)

    return Metric(_plain(own), getattr(made, "higher_is_better", None) is False, compute)


def _class_of(name: str) -> Callable[..., Any]:
    try:
        import_module("common.torchvision_import")  # torchmetrics imports torchvision
        modules = [import_module(f"torchmetrics{part}") for part in (".classification", ".regression", "")]
    except ImportError as error:
        raise ConfigError(
            f"val_metrics names {name}, but torchmetrics cannot be imported ({error}): install it with "
            "`pip install 'sideways-video[metrics]'`, or give path/to/file.py:function"
        ) from error
    for module in modules:
        found: Any = getattr(module, name, None)
        if isinstance(found, type):
            return found
    raise ConfigError(
        f"val_metrics: torchmetrics has no class {name}: see its documentation, such as MulticlassF1Score, "
        "MultilabelAUROC, SpearmanCorrCoef; or give path/to/file.py:function"
    )
