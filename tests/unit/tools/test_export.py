"""Exported programs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, SidewaysError
from common.models import build
from common.rule.tasks import task_of
from coordinator.run_directory import MODEL
from coordinator.tools.export import export
from coordinator.tools.predict import predict_clips
from coordinator.tools.trained_model import TrainedModel, open_model
from tests.support.settings import config_of
from tests.support.trained import CLASSES, by_hand, saved


def test_a_run_and_its_exported_program_predict_the_same(run: Path, videos: Path, tmp_path: Path) -> None:
    video = videos / "val/bee/1.mp4"
    expected = by_hand(config_of(videos, data__stride=2), video)
    for name in ("out.safetensors", "out.pt2"):
        assert export(run, tmp_path / name) == 23
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt2", "out.safetensors"]
    for model in (run, run / MODEL, tmp_path / "out.safetensors", tmp_path / "out.pt2"):
        trained = open_model(model)
        assert (trained.classes, trained.task.name, trained.data.stride) == (CLASSES, "classify", 2)
        torch.testing.assert_close(predict_clips(trained, video).total, expected.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("autoencoder", "autoencode"),
        ("resnet18", "classify"),
        pytest.param("mobilenet_v3_large", "classify", marks=pytest.mark.long),
    ],
)
def test_an_exported_program_accepts_any_number_of_frames(tmp_path: Path, videos: Path, model: str, task: str) -> None:
    config = config_of(videos, model=model, task=task, model_args={}, data__size=32, stages=1, split=[1])
    run = saved(tmp_path, config)
    export(run, tmp_path / "out.pt2")
    program = torch.export.load(tmp_path / "out.pt2")
    assert set(program.state_dict) == set(build(config, 3).state_dict())
    frames = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(open_model(tmp_path / "out.pt2")(frames), open_model(run)(frames), rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_program_of_blocks_that_remember_takes_a_whole_clip(tmp_path: Path, videos: Path) -> None:
    """Its outputs are those of the model that plays the clip frame by frame."""
    config = config_of(videos, model="movinet_a0", model_args={}, data__size=32, stages=1, split=[17])
    run = saved(tmp_path, config)
    export(run, tmp_path / "out.pt2")
    program = torch.export.load(tmp_path / "out.pt2").module()
    frames = torch.randn(7, 3, 32, 32)
    played = open_model(run).play((np.array([1]), frame[None]) for frame in frames)
    expected = torch.cat([y.clone() for y in played])
    torch.testing.assert_close(program(frames), expected, rtol=1e-3, atol=1e-4)


def test_a_transformer_can_be_exported(tmp_path: Path, videos: Path) -> None:
    from common.models.chain import Chain
    from coordinator.tools.export import _write_program

    config = config_of(videos, model="vit_b_16", model_args={}, data__size=32, stages=1, split=[1])
    whole = build(config, 3)
    assert isinstance(whole, Chain)
    small = whole.take(["tokens", "encoder_layer_0", "head"]).eval()  # 9 of its 86 million weights
    torch.nn.init.normal_(small.get_parameter("heads.head.weight"))
    about = {"model": "vit_b_16", "model_args": "{}", "task": "classify", "classes": '["a", "b", "c"]'}
    about["data"] = '{"size": 32}'
    trained = TrainedModel(tmp_path, small, task_of(config, 3), ["a", "b", "c"], config.data, 0, about)
    _write_program(trained, tmp_path / "out.pt2")
    frames = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(open_model(tmp_path / "out.pt2")(frames), trained(frames), rtol=1e-3, atol=1e-4)


def test_an_exported_program_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.tools.export._close", lambda expected, found: False)
    with pytest.raises(SidewaysError, match=r"the exported program differs from the model by"):
        export(run, tmp_path / "out.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_export_is_an_error(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x): return x * 2 if float(x.sum()) > 0 else x\n"
        "def build(classes): return nn.Sequential(nn.Flatten(), Odd(), nn.Linear(768, classes))\n"
    )
    config = config_of(videos, model=f"{tmp_path / 'mine.py'}:build", model_args={}, stages=1, split=[3])
    run = saved(tmp_path, config)
    with pytest.raises(SidewaysError, match=r"torch.export cannot export .*Export a .safetensors file"):
        export(run, tmp_path / "out.pt2")
    (tmp_path / "mine.py").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*mine.py"):
        open_model(run)


def test_a_folder_that_is_not_there_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match=r"^cannot write .*none"):
        export(run, tmp_path / "none" / "out.pt2")
