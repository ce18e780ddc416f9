"""A stage's metrics."""

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from common.config.run_file import parse
from common.processes.membership import Membership
from common.telemetry.metric_registry import MetricRegistry
from stage_worker.reporting.prometheus import StageMetrics, TickTimes
from stage_worker.reporting.reported_loop import Times
from tests.support.metrics import shown
from tests.support.reports import progress


def test_every_tick_is_counted_once_in_the_histograms() -> None:
    """More ticks than there are rows, sums that are zeroed at some of the reports."""
    registry = MetricRegistry(stage="0")
    times = TickTimes(registry)
    random = np.random.default_rng(0)
    ticks = random.choice([0.0001, 0.003, 0.2, 50.0], size=(10000, 4))
    times.begin()
    sums = np.zeros(4)
    for number, parts in enumerate(ticks):
        sums += parts
        a, b, c, d = sums.tolist()
        times.note(Times(a, b, c, d))
        if number % 6000 == 4999:
            times.fold(zeroed=True)
            sums[:] = 0
    times.fold(zeroed=True)
    times.fold(zeroed=True)
    found = shown(registry)
    labels = (("stage", "0"),)
    for column, part in enumerate(("compute", "receive_wait", "send_wait", "data_wait")):
        name = f"sideways_tick_{part}_seconds"
        assert found[f"{name}_count", labels] == 10000
        assert found[f"{name}_sum", labels] == pytest.approx(ticks[:, column].sum())
        for edge in ("0.0001220703125", "0.00390625", "0.25", "32.0"):
            below = int((ticks[:, column] <= float(edge)).sum())
            assert found[f"{name}_bucket", (("le", edge), *labels)] == below
    assert found["sideways_tick_seconds_count", labels] == 10000


def test_a_stages_report_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse({"ticks": 1, "stages": 3, "data": {"train": ".", "slots": 4}}, "test")
    monkeypatch.setattr("stage_worker.reporting.prometheus.serve", lambda *_: "here:1")
    metrics = StageMetrics(config.metrics, cast(Membership, SimpleNamespace(stage=1, local_stage=0, address="here")))
    metrics.configured(config, torch.device("cpu"))
    metrics.begin()
    report = progress(
        stage=1, tick=19, ticks=10, rows=40, gated=8, rate=0.25, peak_memory_bytes=5, dropped=1,
        bytes_forward=70, bytes_backward=30, loss=float("nan"), counted=40, correct=20,
    )  # fmt: skip
    for _ in range(2):
        metrics.reported(report)
    found = shown(metrics._registry)
    assert math.isnan(found.pop(("sideways_loss", (("stage", "1"),))))
    assert {name.removeprefix("sideways_"): value for (name, labels), value in found.items() if len(labels) == 1} == {
        "ticks_total": 20, "gradient_rows_total": 80, "gated_rows_total": 16, "dropped_reports_total": 1,
        "current_tick": 19, "learning_rate": 0.25, "peak_memory_bytes": 5, "cuda_memory_bytes": 0,
        "mismatch_frames": 2, "accuracy_ratio": 0.5,
    }  # fmt: skip
    edges = {dict(labels)["way"]: value for (name, labels), value in found.items() if "edge" in name}
    assert edges == {"forward": 140, "backward": 60}
