"""The registry of metrics exported to Prometheus."""

from common.telemetry.metric_registry import MetricRegistry
from tests.support.metrics import shown


def test_counters_and_gauges_are_exported_exactly() -> None:
    registry = MetricRegistry(stage="2")
    registry.add("sideways_edge_bytes", 0, way="backward")
    registry.add("sideways_edge_bytes", 40, way="forward")
    registry.add("sideways_edge_bytes", 2, way="forward")
    registry.set("sideways_loss", float("nan"))
    registry.set("sideways_loss", 0.5)
    numbers = iter((7, 8))
    registry.watch("sideways_dropped_frames", lambda: next(numbers))
    first, second = shown(registry), shown(registry)
    assert first == {
        ("sideways_edge_bytes_total", (("stage", "2"), ("way", "forward"))): 42,
        ("sideways_edge_bytes_total", (("stage", "2"), ("way", "backward"))): 0,
        ("sideways_loss", (("stage", "2"),)): 0.5,
        ("sideways_dropped_frames_total", ()): 7,
    }
    assert second["sideways_dropped_frames_total", ()] == 8
