"""What a run consists of when it is ready for its first tick."""

from dataclasses import dataclass

from common.telemetry.spans import WorkClock
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.checkpoints.healing import Healing
from coordinator.checkpoints.resume import StartPoint
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.monitor.evaluation_scores import Evaluator
from coordinator.monitor.prometheus import RunMetrics
from coordinator.monitor.run_totals import RunTotals
from coordinator.page.video import VideoView
from coordinator.run.best_model import BestModel
from coordinator.run.gradient_probe import GradientProbe
from coordinator.run.pipeline import Pipeline
from coordinator.run.presence import Presence
from coordinator.run.state import RunState
from coordinator.run.training_feed import TrainingFeed
from coordinator.run_directory import RunDirectory
from coordinator.trace.recorder import TraceRecorder
from coordinator.video.datasets import Datasets


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
