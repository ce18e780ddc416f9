"""The coordinator's metrics, and the file by which Prometheus discovers the run's processes."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.config.settings import Config
from common.errors import SidewaysError
from common.run_registry.records import IN_ORDER, State
from common.telemetry.http_server import serve
from common.telemetry.metric_registry import MetricRegistry
from coordinator.atomic_file import replacing
from coordinator.launch.attempt import restarts
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent

TARGETS = ".targets.json"  # appended to the run directory's path


class RunMetrics(Listener):
    """The coordinator's metrics. Without metrics.port they are not served.

    Attributes:
        registry: the metrics.
        fed: training batches fed by this process.
    """

    def __init__(self, config: Config, total_ticks: int, first: int) -> None:
        """`total_ticks`: ticks of the whole training; `first`: the tick at which it starts or resumes."""
        self._config, self.registry, self._first = config, MetricRegistry(), first
        self._processes: dict[str, str] = {}  # host:port of each
        self._targets: Path | None = None
        self.fed = self._evaluated = 0
        self.registry.set("sideways_planned_ticks", total_ticks)
        self.registry.watch("sideways_frames", lambda: self._evaluated, phase="evaluation")
        self.registry.watch("sideways_frames", lambda: self.fed * config.data.slots, phase="training")
        self.registry.add("sideways_restarts", restarts())
        self.registry.set("sideways_recovery_seconds", 0.0)
        self.registry.set("sideways_lost_ticks", 0)
        self.registry.set("sideways_replicas", config.replicas)
        for stage, ticks in enumerate(config.edge_ticks or [1] * (config.stages - 1)):
            self.registry.set("sideways_edge_ticks", ticks, stage=str(stage))
        self.training(False)

    def serve(self, address: str, stages: Sequence[str]) -> None:
        """Serve them if metrics.port is set. Raises ConfigError.

        Args:
            address: of this host.
            stages: host:port of the metrics of every stage, replica by replica.
        """
        if self._config.metrics.port:
            self._processes = {"coordinator": serve(self.registry.registry, self._config.metrics, 0, address)}
            self._processes |= {self._name(worker): address for worker, address in enumerate(stages)}

    def _name(self, worker: int) -> str:
        replica, stage = divmod(worker, self._config.stages)
        return f"replica {replica} stage {stage}" if self._config.replicas > 1 else f"stage {stage}"

    def announce(self, run: Path) -> None:
        """Write the list of targets for Prometheus. `run`: the run directory. Raises SidewaysError."""
        if not self._processes:
            return
        targets = [
            {"targets": [address], "labels": {"run": run.name, "process": process}}
            for process, address in self._processes.items()
        ]
        self._targets = run.with_name(run.name + TARGETS)
        try:
            with replacing(self._targets) as part:
                part.write_text(json.dumps(targets, indent=1), encoding="utf-8")
        except OSError as error:
            raise SidewaysError(
                f"cannot write {self._targets}: {error.strerror}. Free disk space there, or set runs to another folder"
            ) from error

    def training(self, on: bool) -> None:
        """Set whether ticks run now."""
        self.registry.set("sideways_training", float(on))

    def progress(self, event: ProgressEvent) -> None:
        """Update the number of batches that stage 0 has not received yet."""
        if event.report.stage == 0:
            waiting = self._first + self.fed - (event.report.tick + 1)
            self.registry.set("sideways_queue_depth", max(0, waiting), queue="frames")

    def evaluated(self, event: EvaluationEvent) -> None:
        """Update the figures."""
        self._evaluated += event.evaluation.frames
        for name, value in event.figures.items():
            self.registry.set("sideways_validation_figure", value, figure=name)
        if event.evaluation.score is not None:
            self.registry.set("sideways_validation_score", event.evaluation.score)

    def probed(self, found: dict[str, Any]) -> None:
        """Update the probe's figures."""
        for row in found["stages"]:
            for name in ("cosine", "norm_ratio"):
                if row[name] is not None:
                    self.registry.set(f"sideways_pseudo_gradient_{name}", row[name], stage=str(row["stage"]))

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        """Update the duration of the last recovery."""
        self.registry.set("sideways_recovery_seconds", seconds)

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        """Update the number of ticks whose updates were lost."""
        self.registry.set("sideways_lost_ticks", sum(lost.values()))

    def close(self, state: State, message: str, tick: int) -> None:
        """Remove the list of targets, unless another attempt may follow."""
        if self._targets is not None and state in IN_ORDER:
            with suppress(OSError):
                self._targets.unlink()
