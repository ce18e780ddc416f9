"""The first step: find the clips, check the model, make the run directory, find the checkpoint to resume from."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.config.consistency import without_effect
from common.config.settings import Config
from common.messages.snapshot_copies import Copies
from common.models import build, named_blocks
from common.models.published import describe
from common.partition.balance import check_depth
from common.partition.model_check import check_model
from common.processes.caller import write_directory
from common.rule.tasks import without_loss
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.resume import find_checkpoint
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.checkpoints.store import Checkpoints
from coordinator.monitor.evaluation_scores import Evaluator, evaluator
from coordinator.monitor.val_metrics import metrics_of
from coordinator.run.pipeline import Pipeline
from coordinator.run.presence import Presence
from coordinator.run.stop_request import StopRequest
from coordinator.run_directory import RunDirectory
from coordinator.video.datasets import Datasets, Warn


@dataclass(frozen=True)
class Setup:
    """The arguments that every step of the setup needs."""

    config: Config
    pipeline: Pipeline
    presence: Presence
    stop: StopRequest
    resume: Path | None


@dataclass(frozen=True)
class Checked:
    """The result of the first step: data and model have been checked, and the run directory exists."""

    datasets: Datasets
    evaluator: Evaluator
    blocks: list[str]  # their names
    directory: RunDirectory
    checkpoints: Checkpoints
    found: tuple[Path, Position] | None
    is_restart: bool  # this is an automatic restart after a process was lost
    snapshots: RunSnapshots | None


def check(setup: Setup, run_file: str) -> Checked:
    """Find the clips, check the model, find the checkpoint to resume from."""
    config, presence, resume, stop = setup.config, setup.presence, setup.resume, setup.stop
    warn = presence.terminal.warn
    datasets = Datasets(config, warn, setup.pipeline.poll, lambda: bool(stop.signal))
    is_restart = resume is not None and presence.marker.find() == resume
    model = _model(config, datasets, warn, known=is_restart)
    evaluator = _evaluator(config, len(datasets.train.classes))
    if not is_restart:
        for line in describe(config):
            presence.terminal.say(line)
    directory = RunDirectory(resume or presence.create_directory(run_file))
    write_directory(directory.path)
    if resume is None:  # a resumed run is introduced, and changed, only once its stages are built
        presence.marker.write(directory.path)
        presence.introduce(config, directory.path, datasets.total_ticks)
    checkpoints = Checkpoints(directory.path, config.checkpoint.keep, evaluator.figure)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    total, evaluates = datasets.total_ticks, config.data.val is not None
    found = find_checkpoint(checkpoints, shapes, total, evaluates, is_restart, warn) if resume else None
    blocks = [name for name, _ in named_blocks(model)]
    copies = Copies(setup.pipeline.me)
    snapshots = RunSnapshots(directory.path, config, copies) if config.recovery.snapshot_ticks else None
    return Checked(datasets, evaluator, blocks, directory, checkpoints, found, is_restart, snapshots)


def _evaluator(config: Config, classes: int) -> Evaluator:
    task = without_loss(config, classes)
    return evaluator(task, metrics_of(config.val_metrics, task, classes), config.checkpoint.best)


def _model(config: Config, datasets: Datasets, warn: Warn, known: bool) -> nn.Sequential:
    """The model, checked here unless it already was, so that an error is reported once and not by every stage."""
    classes = len(datasets.train.classes)
    model = build(config, classes, warn)
    check_depth(config, len(model))
    if not known:
        check_model(model, config.of_pass, classes, warn)
    for text in without_effect(config, datasets.total_ticks):
        warn(text)
    return model
