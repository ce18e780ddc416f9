"""Runs that report to experiment trackers: MLflow's own local store, and Weights & Biases offline."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.support.processes import sideways
from tests.support.settings import settings, write_run_file


@pytest.mark.long
def test_both_trackers_follow_a_run(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    changes = {"ticks": 60, "data__val": str(videos / "val"), "evaluate_every": 30}
    tree = settings(videos, name="it", report__trackers=["wandb", "mlflow"], **changes)
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert len(list((tmp_path / "runs/it/wandb").glob("offline-run-*/run-*.wandb"))) == 1
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run((tmp_path / "runs/it/mlflow.id").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.params["data.slots"] == "3"
    assert run.data.metrics["evaluation/val_top1"] == summary["val_top1"]
    assert {"stage 0/tick_ms", "stage 1/loss"} <= set(run.data.metrics)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"partition", "confusion", "evaluation", "model.safetensors", "run.toml", "summary.json"}
    assert {file.path for file in client.list_artifacts(run.info.run_id, "confusion")} == {
        "confusion/30.csv",
        "confusion/60.csv",
    }


@pytest.mark.long
def test_a_run_goes_on_without_a_tracker_that_fails(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tree = settings(videos, name="it", ticks=20, report__trackers=["mlflow"])
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mlflow gets no more reports" in done.stderr
    assert "check MLFLOW_TRACKING_URI" in done.stderr
    assert (tmp_path / "runs/it/model.safetensors").is_file()


@pytest.mark.long
def test_a_tracker_that_is_not_installed_is_an_error_before_the_start(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/mlflow.py").write_text("raise ImportError('not installed')")
    run_file = write_run_file(tmp_path / "run.toml", settings(videos, report__trackers=["mlflow"]))
    done = sideways("train", run_file, cwd=tmp_path, before=tmp_path / "hide")
    assert done.returncode == 2, done.stderr
    assert "pip install 'sideways-video[mlflow]'" in done.stderr
    assert not (tmp_path / "runs").exists()
