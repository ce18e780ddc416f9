"""What happens in a run is told to all at once: the terminal, metrics.jsonl, TensorBoard, Prometheus, onlookers."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from common.config.settings import Config
from common.messages.stage_report import Progress
from common.partition.balance import BlockCost
from common.rule.pixels import to_pixels
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.monitor.prometheus import RunMetrics
from coordinator.monitor.run_status import Onlookers
from coordinator.monitor.run_totals import RunTotals, metric_line
from coordinator.monitor.tensorboard import EventFiles
from coordinator.monitor.terminal import Terminal, shown
from coordinator.run_directory import RunDirectory

_FIGURES = ("top1", "top5", "mean_class", "mse", "clips", "frames")


class Broadcast:
    """Passes on reports, evaluations and probes."""

    def __init__(
        self, config: Config, terminal: Terminal, directory: RunDirectory, totals: RunTotals, planned: int, first: int
    ) -> None:
        """`planned`: ticks of the whole training; `first`: the tick at which it begins, or goes on."""
        self._config, self._display, self._directory = config, terminal, directory
        self._totals, self._planned = totals, planned
        self._warned_of_disk = False
        self.metrics = RunMetrics(config, planned, first)
        self.onlookers = Onlookers()
        self.events = EventFiles(directory.path, terminal.warn, first) if config.report.tensorboard else None

    def partition(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """The blocks and their stages."""
        if self.events is not None:
            self.events.partition(costs, split)

    def progress(self, report: Progress) -> None:
        """A stage's progress report."""
        self._totals.add(report)
        metric = metric_line(report, self._config.data.slots)
        self._directory.metric(metric)
        if self.events is not None:
            self.events.progress(metric)
        self.metrics.progress(report)
        totals = self._totals
        rate = {} if metric["learning_rate"] is None else {"learning_rate": metric["learning_rate"]}
        self.onlookers.line(metric, tick=totals.tick, loss=totals.loss, accuracy=totals.accuracy, **rate)
        self._display.trained(self._totals, self._planned)
        self._warn_of_disk()

    def _warn_of_disk(self) -> None:
        if self._directory.lost and not self._warned_of_disk:
            self._warned_of_disk = True
            self._display.warn(f"metrics.jsonl cannot be written, the training goes on: {self._directory.lost}")

    def recovered(self, tick: int, restarts: int, seconds: float) -> None:
        """The training goes on after a process was lost."""
        told = {"kind": "restart", "tick": tick, "restarts": restarts, "recovery_seconds": seconds}
        self._directory.metric(told)
        self.metrics.recovered(seconds)
        self.onlookers.line(told)
        self._display.say(f"restart {restarts}: the training goes on, {seconds:.1f} s after its last report")

    def evaluation(
        self, tick: int, seconds: float, evaluation: Evaluation, pictures: Tensor | None, classes: Sequence[str]
    ) -> None:
        """An evaluation at `tick`, after `seconds` of training. pictures: see common.messages.stage_calls.Scores."""
        figures = {f"val_{name}": getattr(evaluation, name) for name in _FIGURES}
        figures = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        told = {"kind": "evaluation", "tick": tick, "train_seconds": round(seconds, 3), **figures}
        self._directory.metric(told)
        self.onlookers.line(told, evaluation=figures)
        self.metrics.evaluation(evaluation)
        if self.events is not None:
            self.events.evaluation(tick, figures, evaluation.confusion, classes)
            if pictures is not None:
                targets, outputs = to_pixels(pictures, self._config.data.mean, self._config.data.std)
                self.events.pictures(tick, targets, outputs)
        self._display.say(f"tick {tick}: " + ", ".join(f"{name} {shown(value)}" for name, value in figures.items()))

    def probe(self, found: dict[str, Any]) -> None:
        """What a gradient probe found."""
        self._directory.metric({"kind": "probe", **found})
        self._display.probed(found)
        self.metrics.probed(found)
        self.onlookers.line({"kind": "probe", **found})
        if self.events is not None:
            self.events.probed(found)

    def rate(self, tick: int, rate: float) -> None:
        """The learning rate was set, from `tick` on."""
        told = {"kind": "set", "tick": tick, "optimiser.lr": rate}
        self._directory.metric(told)
        self.onlookers.line(told)
        self._display.say(f"tick {tick}: optimiser.lr is {rate:g} from here on, as asked")

    def close(self) -> None:
        """Nothing more is told."""
        self.metrics.close()
        if self.events is not None:
            self.events.close()
