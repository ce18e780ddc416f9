"""A run in MLflow, at MLFLOW_TRACKING_URI; by default MLflow's own store in the working directory."""

import csv
import io
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from common.run_registry.records import State
from coordinator.trackers.tracker import Row, keep_id, known_id

_EXPERIMENT = "sideways"  # unless MLFLOW_EXPERIMENT_NAME names one
_AT_ONCE, _LONGEST = 100, 500  # parameters a request, and characters of one, that every server accepts
_ENDED = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "restarting": "FAILED"}


class MlflowRun:
    """A `Tracker`. Settings are parameters, curves metrics, tables and files artifacts."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it would write into the run's progress bar
        self._client = MlflowClient()
        self._id, known = self._continued(known_id(run, "mlflow")) or (self._new(run.name), {})
        keep_id(run, "mlflow", self._id)
        self._set(settings, known)
        self.where = f"{self._client.tracking_uri}, run {self._id}"

    def curves(self, figures: dict[str, float], tick: int) -> None:
        """Log the figures; the step is the tick."""
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, tick) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], tick: int) -> None:
        """Store it as NAME/TICK.csv."""
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        self._client.log_text(self._id, text.getvalue(), f"{name}/{tick}.csv")

    def close(self, state: State, files: Sequence[Path]) -> None:
        """Store the files."""
        for file in files:
            self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id, _ENDED.get(state, "FINISHED"))

    def _new(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        identity = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        return str(self._client.create_run(identity, run_name=name).info.run_id)

    def _continued(self, identity: str | None) -> tuple[str, Mapping[str, str]] | None:
        """The run of an earlier attempt and its parameters; None if there is none, or it was deleted."""
        if identity is None:
            return None
        try:
            found = self._client.get_run(identity)
        except MlflowException:
            return None
        if found.info.lifecycle_stage != "active":
            return None
        self._client.update_run(identity, status="RUNNING")
        return identity, found.data.params

    def _set(self, settings: dict[str, Any], known: Mapping[str, str]) -> None:
        """Log the parameters that are not known: MLflow refuses to change one. run.toml has a resumed run's own."""
        texts = {name: str(value)[:_LONGEST] for name, value in settings.items()}
        params = [Param(name, text) for name, text in texts.items() if name not in known]
        for part in _parts(params):
            self._client.log_batch(self._id, params=part)


def _parts(params: list[Param]) -> list[list[Param]]:
    return [params[start : start + _AT_ONCE] for start in range(0, len(params), _AT_ONCE)]
