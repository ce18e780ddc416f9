"""Prepares a run in three steps, and builds what watches it."""

from pathlib import Path

from common.config.settings import Config
from common.telemetry.spans import WorkClock
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.checkpoints.resume import StartPoint
from coordinator.monitor.metrics_file import MetricsFile
from coordinator.monitor.prometheus import RunMetrics
from coordinator.monitor.run_totals import RunTotals, StageTotals
from coordinator.page.video import VideoView
from coordinator.run import metric_sources
from coordinator.run.best_model import BestModel
from coordinator.run.gradient_probe import GradientProbe
from coordinator.run.pipeline import Pipeline
from coordinator.run.presence import Presence
from coordinator.run.setup.checks import Checked, Setup, check
from coordinator.run.setup.prepared import Prepared
from coordinator.run.setup.stages import Built, build_stages
from coordinator.run.setup.start import restore
from coordinator.run.state import RunState
from coordinator.run.stop_request import StopRequest
from coordinator.trace.reader_spans import ReaderSpans
from coordinator.trace.recorder import TraceRecorder


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
    setup = Setup(config, pipeline, presence, stop, resume)
    checked = check(setup, run_file)
    built = build_stages(setup, checked)
    overdue = restore(setup, checked, built.start)
    checked.directory.save_config(built.state.config)
    presence.marker.write(checked.directory.path)
    return _assemble(setup, checked, built, overdue)


def _assemble(setup: Setup, checked: Checked, built: Built, overdue: bool) -> Prepared:
    """Build the remaining parts of the run, and add the remaining listeners."""
    state, start = built.state, built.start.point
    config, pipeline, presence, datasets = state.config, setup.pipeline, setup.presence, checked.datasets
    directory, warn, work = checked.directory, presence.terminal.warn, WorkClock()
    saver = BackgroundSaver(checked.checkpoints, pipeline.stages, warn)
    metrics = RunMetrics(config, state.total_ticks, start.tick)
    metric_sources.watch(metrics.registry, datasets, saver, pipeline.feeder, work, pipeline.readers)
    metrics.serve(pipeline.address, [address.metrics for address in pipeline.addresses])
    for listener in (MetricsFile(directory, warn), metrics):
        presence.broadcast.add(listener)
    readers = ReaderSpans(len(pipeline.me.readers), config.network.deadline)
    classes, video = len(datasets.train.classes), None
    if presence.page is not None:
        if config.report.page_video:
            video = VideoView(config, datasets.train.classes, pipeline.stages, readers=pipeline.readers)
        presence.page.running(config, start.origin, metrics.registry.numbers, f"val_{checked.evaluator.best}", video)
    return Prepared(
        state=state,
        start=start,
        pipeline=pipeline,
        presence=presence,
        datasets=datasets,
        evaluator=checked.evaluator,
        directory=directory,
        best=BestModel(directory, checked.evaluator, warn),
        feed=built.feed,
        totals=_totals(state, start),
        metrics=metrics,
        saver=saver,
        video=video,
        probe=GradientProbe(config, classes, pipeline.stages, start.origin) if config.probe.every else None,
        tracer=TraceRecorder(directory.path, config, pipeline.stages, work, readers),
        work=work,
        overdue=overdue,
        lost_at=directory.last_write_time if checked.is_restart else None,
        snapshots=checked.snapshots,
        healing=built.start.healing,
    )


def _totals(state: RunState, start: StartPoint) -> RunTotals:
    config, stages = state.config, [StageTotals() for _ in range(state.config.stages)]
    return RunTotals(stages, config.data.slots, state.total_ticks, config.replicas, start.tick)
