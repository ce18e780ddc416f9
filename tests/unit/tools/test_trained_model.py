"""Opening trained models."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from common.errors import ConfigError, SidewaysError
from coordinator.run_directory import MODEL
from coordinator.tools.export import export
from coordinator.tools.trained_model import open_model


def test_an_unknown_file_type_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in .safetensors .*, .pt2 .* or .onnx, or give --format"):
        export(run, tmp_path / "out.h5")
    with pytest.raises(SidewaysError, match=r"cannot write .*No such file"):
        export(run, tmp_path / "missing/out.safetensors")


def test_missing_and_damaged_models_are_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="does not exist"):
        open_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SidewaysError, match="that has saved its model"):
        open_model(tmp_path / "empty")
    whole = (run / MODEL).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SidewaysError, match=r"half.safetensors is damaged"):
        open_model(tmp_path / "half.safetensors")
    (tmp_path / "half.pt2").write_bytes(whole[:1000])
    with pytest.raises(SidewaysError, match=r"half.pt2 is not a program"):
        open_model(tmp_path / "half.pt2")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(SidewaysError, match=r"lacks the metadata model, model_args, task, classes, data"):
        open_model(tmp_path / "foreign.safetensors")
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"a run directory, a .safetensors, a .pt2 or an .onnx file"):
        open_model(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("key", "value"),
    [("data", "{"), ("data", '{"size": -1}'), ("classes", '"ant"'), ("task", "fly"), ("model_args", "[]")],
)
def test_an_invalid_model_description_is_an_error(run: Path, tmp_path: Path, key: str, value: str) -> None:
    with safe_open(run / MODEL, "pt") as file:
        about = {**file.metadata(), key: value}
    save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", about)
    with pytest.raises(SidewaysError, match="has metadata that this version does not know"):
        open_model(tmp_path / "odd.safetensors")


def test_weights_of_another_model_are_an_error(run: Path, tmp_path: Path) -> None:
    with safe_open(run / MODEL, "pt") as file:
        save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", file.metadata())
    with pytest.raises(ConfigError, match=r"does not fit model = 'vgg8'"):
        open_model(tmp_path / "odd.safetensors")


# ---- predict


# ---- eval
