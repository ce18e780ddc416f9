"""What the coordinator shows to Prometheus, and the list of the run's processes that Prometheus finds them by."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.config.settings import Config
from common.errors import SidewaysError
from common.messages.stage_report import Progress
from common.telemetry.http_server import serve
from common.telemetry.metric_registry import Board
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.launch.attempt import restarts
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.video.datasets import Datasets
from coordinator.video.feeder import Feeder

TARGETS = ".targets.json"  # after the run's name, beside its directory


class RunMetrics:
    """The coordinator's metrics; without metrics.port they are only kept.

    Attributes:
        fed: training batches fed by this process.
    """

    def __init__(self, config: Config, planned: int, first: int) -> None:
        """`planned`: ticks of the whole training; `first`: the tick at which it begins, or goes on."""
        self._config, self._board, self._first = config, Board(), first
        self._processes: dict[str, str] = {}  # host:port of each
        self._targets: Path | None = None
        self.fed = 0
        self._board.set("sideways_planned_ticks", planned)
        self._board.add("sideways_frames", 0, phase="evaluation")
        self._board.watch("sideways_frames", lambda: self.fed * config.data.slots, phase="training")
        self._board.set("sideways_restarts", restarts())
        self.recovered(0.0)
        self.training(False)

    def recovered(self, seconds: float) -> None:
        """The run goes on, so long after the last sign of the attempt before."""
        self._board.set("sideways_recovery_seconds", seconds)

    def watch(self, datasets: Datasets, saver: BackgroundSaver, feeder: Feeder) -> None:
        """Where figures come from that are only read when Prometheus asks."""
        watch = self._board.watch
        watch("sideways_dropped_frames", lambda: datasets.count("dropped"))
        watch("sideways_reconnects", lambda: datasets.count("reconnects"))
        watch("sideways_clip_mishaps", lambda: datasets.count("skipped"), kind="skipped")
        watch("sideways_clip_mishaps", lambda: datasets.count("broken"), kind="broken")
        watch("sideways_clip_mishaps", lambda: datasets.count("damaged"), kind="damaged")
        watch("sideways_clip_mishaps", lambda: datasets.count("short"), kind="short")
        watch("sideways_checkpoints", lambda: saver.kept)
        watch("sideways_checkpoint_failures", lambda: saver.failed)
        watch("sideways_checkpoint_timestamp_seconds", lambda: saver.taken)
        watch("sideways_checkpoint_duration_seconds", lambda: saver.seconds)
        watch("sideways_checkpoint_size_bytes", lambda: saver.bytes)
        watch("sideways_edge_bytes", lambda: feeder.frame_bytes, stage="coordinator", way="frames")
        watch("sideways_edge_bytes", lambda: feeder.target_bytes, stage="coordinator", way="targets")

    def serve(self, address: str, stages: Sequence[str]) -> None:
        """Serve, if that is asked for. Raises ConfigError.

        Args:
            address: of this host.
            stages: host:port of every stage's metrics.
        """
        if self._config.metrics.port:
            self._processes = {"coordinator": serve(self._board.registry, self._config.metrics, 0, address)}
            self._processes |= {f"stage {stage}": address for stage, address in enumerate(stages)}

    def announce(self, run: Path) -> None:
        """Let Prometheus find all processes. `run`: the run directory. Raises SidewaysError."""
        if not self._processes:
            return
        targets = [
            {"targets": [address], "labels": {"run": run.name, "process": process}}
            for process, address in self._processes.items()
        ]
        self._targets = run.with_name(run.name + TARGETS)
        try:
            part = self._targets.with_name(self._targets.name + ".part")
            part.write_text(json.dumps(targets, indent=1), encoding="utf-8")
            os.replace(part, self._targets)
        except OSError as error:
            raise SidewaysError(
                f"{self._targets} cannot be written: {error.strerror}. Make room there, or set runs to another folder"
            ) from error

    def training(self, on: bool) -> None:
        """Whether ticks run now."""
        self._board.set("sideways_training", float(on))

    def numbers(self) -> dict[str, float]:
        """All of them as they are now, by the names and labels that Prometheus knows. May be called in any thread."""
        samples = [sample for family in self._board.collect() for sample in family.samples]
        return {_series(sample.name, sample.labels): sample.value for sample in samples}

    def progress(self, report: Progress) -> None:
        """A stage's progress report."""
        if report.stage == 0:
            waiting = self._first + self.fed - (report.tick + 1)
            self._board.set("sideways_queue_depth", max(0, waiting), queue="frames")

    def evaluation(self, evaluation: Evaluation) -> None:
        """What the validation clips say."""
        self._board.add("sideways_frames", evaluation.frames, phase="evaluation")
        if evaluation.score is not None:
            self._board.set("sideways_validation_score", evaluation.score)

    def probed(self, found: dict[str, Any]) -> None:
        """What a gradient probe found."""
        for row in found["stages"]:
            for name in ("cosine", "norm_ratio"):
                if row[name] is not None:
                    self._board.set(f"sideways_pseudo_gradient_{name}", row[name], stage=str(row["stage"]))

    def close(self) -> None:
        """The run has ended as it should: Prometheus need not look for its processes any more."""
        if self._targets is not None:
            with suppress(OSError):
                self._targets.unlink()


def _series(name: str, labels: dict[str, str]) -> str:
    """As it is written in a query."""
    inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name
