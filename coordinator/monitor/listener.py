"""The events of a run, and the interface of its listeners: terminal, files, TensorBoard, Prometheus, Redis, page."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.messages.stage_report import Progress
from common.partition.balance import BlockCost
from common.run_registry.records import State
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.monitor.run_totals import RunTotals, metric_line


@dataclass(frozen=True)
class ProgressEvent:
    """A stage's progress report.

    Attributes:
        totals: of the run, including this report.
        line: the report as a line of metrics.jsonl.
    """

    report: Progress
    totals: RunTotals
    line: dict[str, Any]

    @staticmethod
    def of(report: Progress, totals: RunTotals) -> "ProgressEvent":
        """The event of a report that `totals` already include."""
        return ProgressEvent(report, totals, metric_line(report))

    @property
    def status(self) -> dict[str, Any]:
        """Fields of the run's Status that it changes."""
        totals, rate = self.totals, self.line["learning_rate"]
        known = {"tick": totals.tick, "loss": totals.loss, "accuracy": totals.accuracy}
        if rate is None or self.report.stage < len(totals.stages) - 1:  # whose rate is divided, as it has a mismatch
            return known
        return {**known, "learning_rate": rate}


@dataclass(frozen=True)
class EvaluationEvent:
    """An evaluation at `tick`, after `seconds` of training.

    Attributes:
        figures: the available scores, by their names in metrics.jsonl.
        pictures: uint8 targets and outputs, each [rows, channels, height, width]; None if there are none.
        classes: names of the classes.
    """

    tick: int
    seconds: float
    evaluation: Evaluation
    figures: dict[str, Any]
    pictures: tuple[Tensor, Tensor] | None
    classes: Sequence[str]

    @property
    def line(self) -> dict[str, Any]:
        """The line for metrics.jsonl."""
        return {"kind": "evaluation", "tick": self.tick, "train_seconds": round(self.seconds, 3), **self.figures}


class Listener:
    """Watches a run. Methods do nothing unless overridden; all but `close` must return at once."""

    def split(self, blocks: Sequence[str], split: Sequence[int]) -> None:
        """The blocks' names, and the number of blocks of each stage."""

    def measured(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """The blocks' costs have been measured; not so after an automatic restart."""

    def resumed(self, tick: int, evaluated: bool) -> None:
        """The run goes on at `tick`, or begins anew there; `evaluated`: also after the evaluation of that tick.

        Called before the first report.
        """

    def state(self, state: State, message: str, tick: int) -> None:
        """The run's state or message has changed."""

    def progress(self, event: ProgressEvent) -> None:
        """A stage of the first replica has reported, whose figures stand for all."""

    def replica_progress(self, event: ProgressEvent) -> None:
        """A stage of another replica has reported."""

    def evaluated(self, event: EvaluationEvent) -> None:
        """The validation clips were evaluated."""

    def probed(self, found: dict[str, Any]) -> None:
        """A gradient probe: {"tick": …, "stages": [{stage, cosine, norm_ratio, smoothness}]}."""

    def rate_changed(self, tick: int, rate: float) -> None:
        """optimiser.lr was set to `rate`, from `tick` on."""

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        """The training has resumed after a process was lost, `seconds` after its last report."""

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        """The restart went on at `tick` from what the stages had kept. `lost`: ticks whose updates a stage lost."""

    def close(self, state: State, message: str, tick: int) -> None:
        """The run has ended in `state`."""


class LineListener(Listener, ABC):
    """A listener that takes events as the lines of metrics.jsonl."""

    @abstractmethod
    def line(self, line: dict[str, Any], **status: Any) -> None:
        """Called with each line, and with the fields of the run's Status that it changes."""

    def progress(self, event: ProgressEvent) -> None:
        self.line(event.line, **event.status)

    def evaluated(self, event: EvaluationEvent) -> None:
        self.line(event.line, evaluation=event.figures)

    def probed(self, found: dict[str, Any]) -> None:
        self.line({"kind": "probe", **found})

    def rate_changed(self, tick: int, rate: float) -> None:
        self.line({"kind": "set", "tick": tick, "optimiser.lr": rate})

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        self.line({"kind": "restart", "tick": tick, "restarts": restarts, "recovery_seconds": seconds})

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        self.line({"kind": "heal", "tick": tick, "lost_ticks": {str(stage): ticks for stage, ticks in lost.items()}})
