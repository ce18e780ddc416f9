"""Published weights: from the caches of timm and torch, with hash and licence; nothing is downloaded."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError
from common.models import build
from common.models.published import describe, find_weights
from common.torchvision_import import models
from tests.support.settings import config_of

NAME = "test_convnext"


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def config(folder: Path, model: str, weights: str, **changes: Any) -> Config:
    small = {"model_args": {}, "data__size": 64, "stages": 1, "split": [1]}
    return config_of(folder, model=model, weights=weights, **{**small, **changes})


def in_hub(folder: Path, repository: str, tensors: dict[str, Tensor]) -> Path:
    """Put a file into a cache as huggingface_hub lays it out."""
    place = folder / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    file = place / "snapshots/abc/model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(tensors, file)
    return file


def test_timms_weights_come_from_the_hubs_cache(tmp_path: Path) -> None:
    theirs = build(config_of(tmp_path, model=f"timm:{NAME}", model_args={}, data__size=64, seed=9), 1000).state_dict()
    file = in_hub(tmp_path, f"timm/{NAME}.r160_in1k", theirs)
    run, warnings = config(tmp_path, f"timm:{NAME}", "timm"), list[str]()
    loaded = build(run, 5, warnings.append).state_dict()
    own = {name for name in theirs if loaded[name].shape != theirs[name].shape}
    assert own == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(loaded[name], theirs[name]) for name in theirs.keys() - own)
    assert "not loaded, they start anew" in warnings[0]
    first, second = describe(run)
    assert first == f"weights: {file}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}, licence: apache-2.0"
    assert "mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5]: set data.mean and data.std to these" in second
    assert len(describe(config(tmp_path, f"timm:{NAME}", "timm", data__std=0.5))) == 1


def test_torchvisions_weights_come_from_torchs_cache(tmp_path: Path) -> None:
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    theirs = models.resnet18(num_classes=5).state_dict()
    torch.save(theirs, folder / "resnet18-f37072fd.pth")
    run = config(tmp_path, "resnet18", "torchvision", data__mean="imagenet", data__std="imagenet")
    loaded = build(run, 5).state_dict()
    assert all(torch.equal(loaded[name], theirs[name]) for name in theirs)
    (line,) = describe(run)
    assert line.endswith("licence: not stated")


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        (f"timm:{NAME}", "timm", r"\(timm/test_convnext.r160_in1k\) are not in the cache .* fetch them with: python"),
        ("resnet18", "torchvision", r"\(resnet18-f37072fd.pth\) are not in the cache of this host, and a run"),
        ("resnet18", "timm", "is for models of timm, such as timm:convnextv2_nano, not 'resnet18'"),
        ("vgg8", "torchvision", "is for torchvision's models, such as resnet18, not 'vgg8'"),
        ("timm:coatnet_0_224", "timm", "timm has no weights for 'coatnet_0_224'. Leave weights out, or set"),
    ],
)
def test_weights_that_are_not_here_are_an_error(tmp_path: Path, model: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_weights(config(tmp_path, model, weights))


def test_a_file_is_described_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"a": torch.zeros(2)}, file, metadata={"license": "mit"})
    (line,) = describe(config(tmp_path, "vgg8", str(file)))
    assert line == f"weights: {file}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}, licence: mit"
    torch.save({"a": torch.zeros(2)}, tmp_path / "mine.pth")
    assert describe(config(tmp_path, "vgg8", str(tmp_path / "mine.pth")))[0].endswith("licence: not stated")
    assert describe(config_of(tmp_path)) == []
