"""What a run tells an experiment tracker, and which trackers there are."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from common.config.settings import TrackerName
from common.errors import ConfigError
from common.run_registry.records import State

Row = Sequence[str | int | float | None]


class Tracker(Protocol):
    """One run in a tracker. All calls come from one thread, may block, and may raise any exception.

    Attributes:
        where: the run's address, or its folder if it is kept on this host.
    """

    where: str

    def curves(self, figures: dict[str, float], tick: int) -> None:
        """Add a point to each of the named curves."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], tick: int) -> None:
        """Add a table, a newer version of an earlier one of that name."""

    def close(self, state: State, files: Sequence[Path]) -> None:
        """Store the files, and end the run in the tracker."""


@dataclass(frozen=True)
class Kind:
    """A tracker that can be chosen.

    Attributes:
        package: what is imported from.
        home: module and class of ours.
        remedy: for an error, a part of a sentence.
    """

    package: str
    home: tuple[str, str]
    remedy: str

    def open(self, run: Path, settings: dict[str, Any]) -> Tracker:
        """Begin a run named after its directory with these settings, or continue it if the directory names one."""
        module, name = self.home
        return cast(Tracker, getattr(importlib.import_module(module), name)(run, settings))


KINDS: dict[TrackerName, Kind] = {
    "wandb": Kind(
        "wandb",
        ("coordinator.trackers.wandb_run", "WandbRun"),
        "log in with `wandb login`, or set WANDB_MODE=offline and send the run later with `wandb sync`",
    ),
    "mlflow": Kind(
        "mlflow",
        ("coordinator.trackers.mlflow_run", "MlflowRun"),
        "check MLFLOW_TRACKING_URI and that its server answers",
    ),
}


def check_importable(names: Sequence[TrackerName]) -> None:
    """Import the trackers' packages. Raises ConfigError if one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(KINDS[name].home[0])
        except ImportError as error:
            raise ConfigError(
                f'report.trackers names "{name}", which cannot be imported ({error}): install it with '
                f"`pip install 'sideways-video[{name}]'`, or leave it out"
            ) from error


def known_id(run: Path, name: TrackerName) -> str | None:
    """The tracker's own name of the run, which an earlier attempt left in the run directory."""
    file = run / f"{name}.id"
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def keep_id(run: Path, name: TrackerName, identity: str) -> None:
    """Leave the tracker's name of the run for a later attempt. Raises OSError."""
    (run / f"{name}.id").write_text(identity, encoding="utf-8")
