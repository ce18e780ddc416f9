"""A run in Weights & Biases, online or (WANDB_MODE=offline) in RUN/wandb."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from common.run_registry.records import IN_ORDER, State
from coordinator.trackers.tracker import Row, keep_id, known_id

_PROJECT = "sideways"  # unless WANDB_PROJECT names one


class WandbRun:
    """A `Tracker`. Curves are drawn over "tick", as W&B's own steps cannot go back to those after a checkpoint."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        quiet = wandb.Settings(silent=True, console="off")  # silent: it must not ask for a key in the run's terminal
        project = wandb.setup(settings=quiet).settings.project or _PROJECT
        self._run = wandb.init(
            project=project,
            name=run.name,
            id=known_id(run, "wandb"),  # else a new one
            resume="allow",
            dir=str(run),
            config=settings,
            settings=quiet,
            allow_val_change=True,
        )
        keep_id(run, "wandb", self._run.id)
        offline = bool(self._run.settings.mode != "online")
        self.where = str(Path(self._run.dir).parent) if offline else str(self._run.url)
        self._run.define_metric("tick")
        self._run.define_metric("*", step_metric="tick")

    def curves(self, figures: dict[str, float], tick: int) -> None:
        """Log the figures."""
        self._run.log({**figures, "tick": tick})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], tick: int) -> None:
        """Log a wandb.Table."""
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._run.log({name: table, "tick": tick})

    def close(self, state: State, files: Sequence[Path]) -> None:
        """Log the files as an artifact of type model."""
        if files:
            model = wandb.Artifact(f"model-{self._run.id}", "model")
            for file in files:
                model.add_file(str(file))
            self._run.log_artifact(model)
        code = int(state not in IN_ORDER)
        self._run.finish(exit_code=code)
        wandb.teardown(exit_code=code)  # waits until W&B's own process has written everything
