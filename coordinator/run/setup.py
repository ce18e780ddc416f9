"""From settings to a run that is ready for its first tick: find the clips, check the model, choose the split, build the
stages, restore a checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.config.consistency import without_effect
from common.config.settings import Config
from common.messages.snapshot import Snapshot
from common.messages.snapshot_copies import Copies
from common.messages.stage_calls import Plan, StageCalls
from common.models import build, named_blocks
from common.models.published import describe
from common.partition.balance import BlockCost, check_depth, check_split
from common.partition.model_check import check_model
from common.processes.caller import tell_directory
from common.rule.tasks import without_loss
from common.telemetry.spans import WorkClock
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.checkpoints.healing import Healing, common_snapshot, deliver, heal
from coordinator.checkpoints.resume import StartPoint, find_checkpoint, start_from
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.checkpoints.store import Checkpoints, Position
from coordinator.monitor.evaluation_scores import Evaluator, evaluator
from coordinator.monitor.metrics_file import MetricsFile
from coordinator.monitor.prometheus import RunMetrics
from coordinator.monitor.run_totals import RunTotals, StageTotals
from coordinator.monitor.tensorboard import EventFiles
from coordinator.monitor.val_metrics import metrics_of
from coordinator.page.video import VideoView
from coordinator.run import metric_sources
from coordinator.run.best_model import BestModel
from coordinator.run.class_weights import weighted
from coordinator.run.colours import jittering
from coordinator.run.edge_ticks import measured
from coordinator.run.gradient_probe import GradientProbe
from coordinator.run.pipeline import Pipeline
from coordinator.run.presence import Presence
from coordinator.run.split import choose
from coordinator.run.state import RunState
from coordinator.run.stop_request import StopRequest
from coordinator.run.training_feed import OwnFeed, TrainingFeed
from coordinator.run_directory import RunDirectory
from coordinator.trace.reader_spans import ReaderSpans
from coordinator.trace.recorder import TraceRecorder
from coordinator.trackers.listener import TrackerListener
from coordinator.video.datasets import Datasets, Warn


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first tick.

    Attributes:
        feed: feeds the training's frames.
        overdue: an evaluation is due before the first tick, because an earlier attempt was lost during it.
        lost_at: time of the last line that an earlier attempt wrote, in seconds since 1970; None if there was none.
        snapshots: of the coordinator in memory; None if none are to be kept.
        healing: how the run goes on after a loss; None if it starts from a checkpoint, or anew.
        video: shows on the page what the stages hold; None if it is not shown.
        probe: compares pseudo-gradients with exact ones; None if probe.every is 0.
        work: the coordinator's own clock, for traces.
    """

    state: RunState
    start: StartPoint
    pipeline: Pipeline
    presence: Presence
    datasets: Datasets
    evaluator: Evaluator
    directory: RunDirectory
    best: BestModel
    feed: TrainingFeed
    totals: RunTotals
    metrics: RunMetrics
    saver: BackgroundSaver
    video: VideoView | None
    probe: GradientProbe | None
    tracer: TraceRecorder
    work: WorkClock
    overdue: bool
    lost_at: float | None
    snapshots: RunSnapshots | None
    healing: Healing | None


@dataclass(frozen=True)
class _Setup:
    """The arguments that every step of the setup needs."""

    config: Config
    pipeline: Pipeline
    presence: Presence
    stop: StopRequest
    resume: Path | None


@dataclass(frozen=True)
class _Accepted:
    """The result of the first step: data and model have been checked, and the run directory exists."""

    datasets: Datasets
    evaluator: Evaluator
    blocks: list[str]  # their names
    directory: RunDirectory
    checkpoints: Checkpoints
    found: tuple[Path, Position] | None
    again: bool  # this is an automatic restart after a process was lost
    snapshots: RunSnapshots | None


@dataclass(frozen=True)
class _Built:
    """The result of the second step: the stages are built."""

    state: RunState
    start: StartPoint
    feed: TrainingFeed
    healing: Healing | None
    sources: Sequence[Snapshot | None]  # snapshots from which the stages go on, of all replicas; empty if they do not


def prepare(
    config: Config, pipeline: Pipeline, presence: Presence, stop: StopRequest, run_file: str, resume: Path | None
) -> Prepared:
    """Prepare a run.

    Args:
        run_file: its name, after which a run without a name is named.
        resume: the run directory to resume.

    Raises:
        SidewaysError: the data, model, settings or checkpoint are invalid, or a stage failed.
    """
    setup = _Setup(config, pipeline, presence, stop, resume)
    accepted = _accept(setup, run_file)
    built = _build(setup, accepted)
    overdue = _restore(setup, accepted, built)
    accepted.directory.save_config(built.state.config)
    presence.marker.write(accepted.directory.path)
    return _assemble(setup, accepted, built, overdue)


def _accept(setup: _Setup, run_file: str) -> _Accepted:
    """Find the clips, check the model, find the checkpoint to resume from."""
    config, presence, resume, stop = setup.config, setup.presence, setup.resume, setup.stop
    warn = presence.terminal.warn
    datasets = Datasets(config, warn, setup.pipeline.poll, lambda: bool(stop.signal))
    again = resume is not None and presence.marker.find() == resume
    model = _model(config, datasets, warn, checked=again)
    evaluator = _evaluator(config, len(datasets.train.classes))
    if not again:
        for line in describe(config):
            presence.terminal.say(line)
    directory = RunDirectory(resume or presence.create_directory(run_file))
    tell_directory(directory.path)
    if resume is None:  # a resumed run is introduced, and changed, only once its stages are built
        presence.marker.write(directory.path)
        presence.introduce(config, directory.path, datasets.planned)
    checkpoints = Checkpoints(directory.path, config.checkpoint.keep, evaluator.figure)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = find_checkpoint(checkpoints, shapes, datasets.planned, again, warn) if resume else None
    blocks = [name for name, _ in named_blocks(model)]
    copies = Copies(setup.pipeline.me)
    snapshots = RunSnapshots(directory.path, config, copies) if config.recovery.snapshot_ticks else None
    return _Accepted(datasets, evaluator, blocks, directory, checkpoints, found, again, snapshots)


def _evaluator(config: Config, classes: int) -> Evaluator:
    task = without_loss(config, classes)
    return evaluator(task, metrics_of(config.val_metrics, task, classes), config.checkpoint.best)


def _model(config: Config, datasets: Datasets, warn: Warn, checked: bool) -> nn.Sequential:
    """The model, checked here unless it already was, so that an error is reported once and not by every stage."""
    classes = len(datasets.train.classes)
    model = build(config, classes, warn)
    check_depth(config, len(model))
    if not checked:
        check_model(model, config, classes, warn)
    for text in without_effect(config, datasets.planned):
        warn(text)
    return model


def _build(setup: _Setup, accepted: _Accepted) -> _Built:
    """Choose the split, open the training stream, build the stages."""
    datasets, found, presence = accepted.datasets, accepted.found, setup.presence
    planned, classes, warn = datasets.planned, len(datasets.train.classes), presence.terminal.warn
    costs, split = _split(setup, accepted)
    config = measured(setup.config, classes, split, costs, setup.pipeline.stages).model_copy(update={"split": split})
    config = jittering(weighted(config, datasets.train), setup.pipeline.me)
    start = start_from(*found, config, split, datasets, warn) if found else StartPoint()
    start, healing, sources = _from_memory(setup, accepted, start, config, split)
    if accepted.again and not start.tick:
        warn("there is no checkpoint yet: the training starts from the beginning")
    if costs:
        presence.terminal.show_split(costs, split)
    feed = _own_feed(setup, datasets, start, config)  # its processes start while the stages are built
    setup.pipeline.configure(Plan(config.of_replica, classes, tuple(split), planned, start.origin), warn)
    feed = feed or _readers_feed(setup, datasets, start, config)
    if setup.resume is not None:
        presence.introduce(config, accepted.directory.path, planned)
    if config.report.tensorboard:
        presence.broadcast.add(EventFiles(accepted.directory.path, warn, start.tick))
    for name in dict.fromkeys(config.report.trackers):
        presence.broadcast.add(TrackerListener(name, accepted.directory.path, config, presence.terminal.say, warn))
    presence.broadcast.split(accepted.blocks, split)
    if costs:
        presence.broadcast.measured(costs, split)
    state = RunState(config, setup.stop, planned, start.tick, start.seconds, start.tick)
    return _Built(state, start, feed, healing, sources)


def _own_feed(setup: _Setup, datasets: Datasets, start: StartPoint, config: Config) -> TrainingFeed | None:
    if setup.pipeline.readers is not None:
        return None
    return OwnFeed(datasets.open_training(start.places, config), config, setup.pipeline)


def _readers_feed(setup: _Setup, datasets: Datasets, start: StartPoint, config: Config) -> TrainingFeed:
    readers = setup.pipeline.readers
    assert readers is not None
    for handle in readers.handles:
        datasets.watch(handle.errors)
    readers.open(config, datasets.train, start.places, start.tick, setup.pipeline.addresses)
    return readers


def _from_memory(
    setup: _Setup, accepted: _Accepted, start: StartPoint, config: Config, split: list[int]
) -> tuple[StartPoint, Healing | None, Sequence[Snapshot | None]]:
    """Where the run starts, if it can go on from what the processes of the last attempt kept; else `start`.

    Also what each stage, of all replicas, goes on from.
    """
    snapshots, stages, healing = accepted.snapshots, setup.pipeline.stages, None
    if snapshots is None:
        return start, None, ()
    kept = stages.call_all(StageCalls.snapshots, snapshots.path)
    positions = snapshots.positions(kept) if accepted.again else []
    sources: Sequence[Snapshot | None] = ()
    found = kept, positions, start, config, split, accepted.datasets.fingerprint
    if config.recovery.heals and (healed := heal(*found)):
        start, healing = healed
        sources = [*healing.sources] * stages.replicas
    elif not config.recovery.heals and (common := common_snapshot(*found)):
        start, sources = common
    deliver(stages, kept, sources, config.snapshots_kept)
    return start, healing, sources


def _split(setup: _Setup, accepted: _Accepted) -> tuple[list[BlockCost], list[int]]:
    """The blocks' costs, and the number of blocks of each stage.

    There are no costs, as they are not measured again, after an automatic restart that needs none.
    """
    config, stages, classes = setup.config, setup.pipeline.stages, len(accepted.datasets.train.classes)
    before = accepted.found[1].split if accepted.found else None
    known = config.split or (before if before is not None and len(before) == config.stages else None)
    needed = not accepted.again or known is None or config.network.edge_ticks == "auto"
    costs = stages.call(0, StageCalls.measure, config.of_replica, classes) if needed else []
    split = known or choose(config.of_replica, classes, costs, stages)
    check_split(split, len(accepted.blocks))
    return costs, split


def _restore(setup: _Setup, accepted: _Accepted, built: _Built) -> bool:
    """Restore what the run starts from, if anything. Returns whether an evaluation is still due there."""
    start, healing, every, presence = built.start, built.healing, built.state.config.evaluate_every, setup.presence
    evaluated = start.scored or every == 0 or start.tick % every > 0  # or none was due
    if start.tick:
        accepted.checkpoints.set_aside_after(start.tick)
    if start.folder is not None:
        folder = start.folder.resolve()
        restored = start.same_split, start.in_flight, start.optimiser
        setup.pipeline.stages.call_all(StageCalls.restore, folder, start.tick, *restored)
    if accepted.snapshots is not None:
        accepted.snapshots.forget_after(start.tick)
        setup.pipeline.stages.call_all(StageCalls.go_on, built.sources, start.tick)
    if setup.resume is not None:
        accepted.directory.truncate_from(start.tick, evaluated)
    if start.tick:
        presence.terminal.say(str(healing or start))
        presence.broadcast.resumed(start.tick)
    return start.tick > 0 and not evaluated


def _totals(state: RunState, start: StartPoint) -> RunTotals:
    config, stages = state.config, [StageTotals() for _ in range(state.config.stages)]
    return RunTotals(stages, config.data.slots, state.planned, config.replicas, start.tick)


def _assemble(setup: _Setup, accepted: _Accepted, built: _Built, overdue: bool) -> Prepared:
    """Build the remaining parts of the run, and add the remaining listeners."""
    state, start = built.state, built.start
    config, pipeline, presence, datasets = state.config, setup.pipeline, setup.presence, accepted.datasets
    directory, warn, work = accepted.directory, presence.terminal.warn, WorkClock()
    saver = BackgroundSaver(accepted.checkpoints, pipeline.stages, warn)
    metrics = RunMetrics(config, state.planned, start.tick)
    metric_sources.watch(metrics.registry, datasets, saver, pipeline.feeder, work, pipeline.readers)
    metrics.serve(pipeline.address, [address.metrics for address in pipeline.addresses])
    for listener in (MetricsFile(directory, warn), metrics):
        presence.broadcast.add(listener)
    readers = ReaderSpans(len(pipeline.me.readers), config.network.deadline)
    classes, video = len(datasets.train.classes), None
    if presence.page is not None:
        if config.report.page_video:
            video = VideoView(config, datasets.train.classes, pipeline.stages, readers=pipeline.readers)
        presence.page.running(config, start.origin, metrics.registry.numbers, f"val_{accepted.evaluator.best}", video)
    return Prepared(
        state=state,
        start=start,
        pipeline=pipeline,
        presence=presence,
        datasets=datasets,
        evaluator=accepted.evaluator,
        directory=directory,
        best=BestModel(directory, accepted.evaluator, warn),
        feed=built.feed,
        totals=_totals(state, start),
        metrics=metrics,
        saver=saver,
        video=video,
        probe=GradientProbe(config, classes, pipeline.stages, start.origin) if config.probe.every else None,
        tracer=TraceRecorder(directory.path, config, pipeline.stages, work, readers),
        work=work,
        overdue=overdue,
        lost_at=directory.last_write_time if accepted.again else None,
        snapshots=accepted.snapshots,
        healing=built.healing,
    )
