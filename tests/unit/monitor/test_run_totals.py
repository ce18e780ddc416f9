"""Figures of a run, computed from its reports."""

import pytest

from coordinator.monitor.run_totals import RunTotals, StageTotals, metric_line
from tests.support.reports import progress


def totals(stages: int = 2) -> RunTotals:
    return RunTotals([StageTotals() for _ in range(stages)], slots=4, total_ticks=100)


def test_the_first_reports_times_count_only_until_the_next() -> None:
    found = totals()
    found.add(progress(tick=9, ticks=10, seconds=5.0, compute_seconds=4.0))
    assert (found.tick, found.tick_ms, found.slowest_stage_ms) == (10, 500.0, 400.0)
    for tick in (19, 29):
        found.add(progress(tick=tick, ticks=10, seconds=1.0, compute_seconds=0.5))
    assert (found.tick, found.tick_ms, found.slowest_stage_ms) == (30, 100.0, 50.0)


def test_the_speed_is_that_of_the_recent_reports() -> None:
    found = totals()
    assert found.ticks_per_second == 0
    for _ in range(100):
        found.add(progress(ticks=100, seconds=1.0))
        found.add(progress(stage=1, ticks=7, seconds=1.0))
    for _ in range(20):
        found.add(progress(ticks=10, seconds=1.0))
    assert found.ticks_per_second == pytest.approx(10)


def test_the_tick_is_stage_0s_and_drops_are_the_maximum_over_stages() -> None:
    found = totals()
    found.add(progress(stage=1, tick=50, dropped=3))
    assert (found.tick, found.dropped) == (0, 3)
    found.add(progress(stage=0, tick=48, dropped=1))
    assert (found.tick, found.dropped) == (49, 3)


def test_loss_and_accuracy_are_means_weighted_by_rows() -> None:
    found = totals()
    assert (found.loss, found.accuracy) == (None, None)
    found.add(progress(stage=1, loss=1.0, counted=4, correct=4))
    found.add(progress(stage=1, loss=2.0, counted=12, correct=2))
    assert found.loss == pytest.approx(7 / 4)
    assert found.accuracy == pytest.approx(6 / 16)


def test_a_metrics_line_has_figures_per_tick() -> None:
    fields = {"tick": 19, "ticks": 10, "seconds": 0.2, "compute_seconds": 0.1, "bytes_forward": 70, "rows": 40}
    line = metric_line(progress(**fields, gated=10, bytes_backward=30, peak_memory_bytes=1 << 20))
    assert (line["tick_ms"], line["compute_ms"], line["bytes"]) == (20.0, 10.0, 10)
    assert (line["gated_share"], line["peak_memory_mib"]) == (0.25, 1.0)
    assert "loss" not in line
    assert "accuracy" not in line


def test_a_nan_loss_is_null() -> None:
    line = metric_line(progress(loss=float("nan"), counted=4, correct=1))
    assert line["loss"] is None
    assert line["accuracy"] == 0.25


def test_replicas_add_to_losses_and_accuracy_but_their_times_do_not_count() -> None:
    found = RunTotals([StageTotals() for _ in range(2)], slots=4, total_ticks=100, replicas=2)
    found.add(progress(stage=1, loss=1.0, counted=2, correct=2))
    found.add(progress(stage=1, replica=1, loss=2.0, counted=2, correct=1, compute_seconds=9.0))
    assert found.loss == pytest.approx(1.5)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.stages[1].reports == 1
