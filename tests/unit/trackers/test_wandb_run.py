"""Weights & Biases offline: what is reported is in the file that `wandb sync` sends."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from coordinator.trackers.wandb_run import WandbRun

_HEADER, _BLOCK = 7, 1 << 15  # bytes


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file, a log in LevelDB's format: checksum, length and kind, then the data."""
    text, place, data = file.read_bytes(), _HEADER, b""
    while place + _HEADER <= len(text):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", text, place)
        data += text[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]
            data = b""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield
    wandb.teardown()


def test_what_is_reported_is_in_the_file_to_send(tmp_path: Path) -> None:
    folder = tmp_path / "digits-1"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"tensors")
    run = WandbRun(folder, {"optimiser.lr": 2e-3})
    run.curves({"stage 1/loss": 1.5}, 40)
    run.table("confusion", ["true class", "ant"], [["ant", 3]], 40)
    run.close("finished", [folder / "model.safetensors"])
    (file,) = Path(run.where).glob("*.wandb")
    found = list(records(file))
    (begun,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (begun.display_name, begun.project) == ("digits-1", "sideways")
    assert begun.run_id == (folder / "wandb.id").read_text()
    assert {at.key: at.value_json for at in begun.config.update}["optimiser.lr"] == "0.002"
    lines = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(line["tick"], line["stage 1/loss"]) for line in lines if "stage 1/loss" in line] == [(40, 1.5)]
    (table,) = Path(run.where).rglob("confusion*.table.json")
    assert json.loads(table.read_text())["data"] == [["ant", 3]]
    artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    (model,) = [artifact for artifact in artifacts if artifact.type == "model"]
    assert model.name == f"model-{begun.run_id}"
    assert [entry.path for entry in model.manifest.contents] == ["model.safetensors"]


def test_without_a_key_it_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(wandb.errors.UsageError, match="No API key configured"):
        WandbRun(tmp_path, {})
