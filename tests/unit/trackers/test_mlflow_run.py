"""MLflow's local store: what is reported reads back, and a resumed run goes on in the same MLflow run."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from coordinator.trackers.mlflow_run import MlflowRun


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes seconds to create
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "actions")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


def test_what_is_reported_reads_back(client: MlflowClient, tmp_path: Path) -> None:
    settings = {f"data.{number}": number for number in range(150)} | {"model": "x" * 600}
    run = MlflowRun(tmp_path, settings)
    run.curves({"stage 1/loss": 1.5, "stage 1/accuracy": 0.5}, 40)
    run.table("confusion", ["true class", "an, t"], [["an, t", 3]], 40)
    (tmp_path / "model.safetensors").write_bytes(b"tensors")
    again = MlflowRun(tmp_path, {**settings, "data.0": 7, "stages": 2})  # resumed, with other settings
    again.curves({"stage 1/loss": 1.25}, 30)
    again.close("stopped", [tmp_path / "model.safetensors"])
    found = client.search_runs([str(client.get_experiment_by_name("actions").experiment_id)])  # type: ignore[union-attr]
    assert [each.info.run_name for each in found] == [tmp_path.name]
    identity = found[0].info.run_id
    assert identity in again.where
    assert found[0].info.status == "KILLED"
    assert len(found[0].data.params) == 152
    assert found[0].data.params["data.0"] == "0", "MLflow changes no parameter; run.toml has the newest"
    history = [(at.step, at.value) for at in client.get_metric_history(identity, "stage 1/loss")]
    assert sorted(history) == [(30, 1.25), (40, 1.5)]
    folder = Path(client.download_artifacts(identity, "", str(tmp_path)))
    assert (folder / "confusion/40.csv").read_text().splitlines() == ['true class,"an, t"', '"an, t",3']
    assert (folder / "model.safetensors").read_bytes() == b"tensors"


def test_a_run_that_was_deleted_begins_anew(client: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "mlflow.id").write_text("0" * 32)
    MlflowRun(tmp_path, {"stages": 1}).close("failed", [])
    first = (tmp_path / "mlflow.id").read_text()
    assert client.get_run(first).info.status == "FAILED"
    client.delete_run(first)  # it can still be read
    MlflowRun(tmp_path, {"stages": 1}).close("finished", [])
    second = (tmp_path / "mlflow.id").read_text()
    assert client.get_run(second).info.status == "FINISHED"
    assert second != first
