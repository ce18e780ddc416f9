"""Metrics that are read from their source at each scrape by Prometheus."""

from common.telemetry.metric_registry import MetricRegistry
from common.telemetry.spans import Kind, WorkClock
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.run.readers import ReaderHandle, Readers
from coordinator.video.datasets import Datasets
from coordinator.video.feeder import Feeders


def watch(
    registry: MetricRegistry,
    datasets: Datasets,
    saver: BackgroundSaver,
    feeder: Feeders,
    work: WorkClock,
    readers: Readers | None,
) -> None:
    """Register the metrics of the data, the checkpoints and the frames sent. `work`: the coordinator's."""
    watch = registry.watch
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
    watch("sideways_reader_seconds", lambda: work.seconds([Kind.READ]), reader="coordinator", work="read")
    watch("sideways_reader_seconds", lambda: work.seconds([Kind.FEED]), reader="coordinator", work="feed")
    for number, handle in enumerate(readers.handles if readers else ()):
        _watch_reader(registry, f"reader {number}", handle)


def _watch_reader(registry: MetricRegistry, name: str, handle: ReaderHandle) -> None:
    """What a reader has reported."""

    def reported(field: str) -> float:
        return 0 if handle.fed is None else float(getattr(handle.fed, field))

    registry.watch("sideways_edge_bytes", lambda: reported("frame_bytes"), stage=name, way="frames")
    registry.watch("sideways_edge_bytes", lambda: reported("target_bytes"), stage=name, way="targets")
    registry.watch("sideways_reader_seconds", lambda: reported("read_seconds"), reader=name, work="read")
    registry.watch("sideways_reader_seconds", lambda: reported("feed_seconds"), reader=name, work="feed")
