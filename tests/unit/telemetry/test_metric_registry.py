"""What is shown to Prometheus: names by its conventions, numbers that are right, a port that is guarded."""

from common.telemetry.metric_registry import MetricRegistry
from tests.support.metrics import shown


def test_numbers_are_shown_as_they_are() -> None:
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
