"""The coordinator's metrics, and its list of scrape targets."""

import json
from pathlib import Path

import pytest

from common.config.run_file import parse
from coordinator.monitor.prometheus import RunMetrics
from tests.support.metrics import shown
from tests.support.reports import evaluation_event, progress_event


def test_the_coordinator_exports_counters_and_its_scrape_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDEWAYS_RESTARTS", "2")
    monkeypatch.setattr("coordinator.monitor.prometheus.serve", lambda *_: "here:1")
    tree = {"ticks": 1, "stages": 2, "data": {"train": ".", "slots": 4}, "metrics": {"port": 1}}
    config = parse({**tree, "network": {"edge_ticks": 3}}, "test")
    metrics = RunMetrics(config, total_ticks=1000, first=100)
    metrics.serve("here", ["here:2", "there:3"])
    metrics.announce(tmp_path / "it")
    groups = json.loads((tmp_path / "it.targets.json").read_text())
    assert {group["labels"]["process"]: group["targets"] for group in groups} == {
        "coordinator": ["here:1"], "stage 0": ["here:2"], "stage 1": ["there:3"],
    }  # fmt: skip
    assert {group["labels"]["run"] for group in groups} == {"it"}
    metrics.fed = 10
    metrics.progress(progress_event(tick=105))  # ticks 100 … 105 took six batches of ten
    metrics.progress(progress_event(stage=1, tick=104))
    metrics.evaluated(evaluation_event(9, {"val_top5": 0.9}, clips=3, frames=50, score=0.75))
    metrics.probed({"stages": [{"stage": 0, "cosine": 0.5, "norm_ratio": None}]})
    metrics.training(True)
    metrics.restarted(105, 2, 4.5)
    metrics.healed(105, {1: 15, 2: 4})
    found = shown(metrics.registry)
    assert found == {
        ("sideways_planned_ticks", ()): 1000,
        ("sideways_frames_total", (("phase", "training"),)): 40,
        ("sideways_frames_total", (("phase", "evaluation"),)): 50,
        ("sideways_queue_depth", (("queue", "frames"),)): 4,
        ("sideways_validation_score", ()): 0.75,
        ("sideways_validation_figure", (("figure", "val_top5"),)): 0.9,
        ("sideways_pseudo_gradient_cosine", (("stage", "0"),)): 0.5,
        ("sideways_training", ()): 1,
        ("sideways_restarts_total", ()): 2,
        ("sideways_recovery_seconds", ()): 4.5,
        ("sideways_lost_ticks", ()): 19,
        ("sideways_replicas", ()): 1,
        ("sideways_edge_ticks", (("stage", "0"),)): 3,
    }
    metrics.close("restarting", "", 106)
    assert (tmp_path / "it.targets.json").exists()
    metrics.close("finished", "", 106)
    assert list(tmp_path.iterdir()) == []


def test_the_processes_of_replicas_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.monitor.prometheus.serve", lambda *_: "here:1")
    tree = {"ticks": 1, "stages": 2, "replicas": 2, "data": {"train": ".", "slots": 4}, "metrics": {"port": 1}}
    metrics = RunMetrics(parse(tree, "test"), total_ticks=1000, first=0)
    metrics.serve("here", [f"here:{port}" for port in range(2, 6)])
    metrics.announce(tmp_path / "it")
    groups = json.loads((tmp_path / "it.targets.json").read_text())
    names = ["coordinator", *(f"replica {replica} stage {stage}" for replica in range(2) for stage in range(2))]
    assert [group["labels"]["process"] for group in groups] == names
