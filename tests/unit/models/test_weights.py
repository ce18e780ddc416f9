"""Weights from a file: official and other formats, what is skipped, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import ConfigError
from common.models import build
from common.models.temporal import whole_clips
from common.torchvision_import import models
from tests.support.settings import config_of


def built(folder: Path, weights: Path, classes: int = 7, model: str = "resnet18", **changes: Any) -> nn.Module:
    defaults = {"model_args": {}, "stages": 1, "split": [1], "data__size": 32}
    config = config_of(folder, model=model, weights=str(weights), **{**defaults, **changes})
    return build(config, classes, warnings.append)


warnings: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    warnings.clear()


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    """Random weights in the format of resnet18-f37072fd.pth, as the tests have no network."""
    torch.manual_seed(11)
    return models.resnet18(num_classes=7).state_dict()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_an_official_weights_file_loads(tmp_path: Path, official: dict[str, Tensor], ending: str) -> None:
    file = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(official, file)
    else:
        save_file(official, file)
    loaded = built(tmp_path, file).state_dict()
    assert all(torch.equal(loaded[key], official[key]) for key in official)
    assert warnings == []


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_training_scripts_checkpoint_loads(tmp_path: Path, official: dict[str, Tensor], wrapper: str) -> None:
    torch.save({wrapper: official, "epoch": 3}, tmp_path / "best.pt")
    assert torch.equal(built(tmp_path, tmp_path / "best.pt").state_dict()["fc.weight"], official["fc.weight"])


def test_a_classifier_of_another_size_is_not_loaded_with_a_warning(tmp_path: Path, official: dict[str, Tensor]) -> None:
    torch.save(official, tmp_path / "w.pth")
    model, again = (built(tmp_path, tmp_path / "w.pth", classes=3).state_dict() for _ in range(2))
    assert model["fc.weight"].shape == (3, 512)
    assert torch.equal(model["fc.weight"], again["fc.weight"])  # in every process
    assert torch.equal(model["layer4.1.bn2.running_var"], official["layer4.1.bn2.running_var"])
    assert "fc.weight, fc.bias not loaded" in warnings[0]


def test_rgb_weights_load_into_a_grey_model(tmp_path: Path, official: dict[str, Tensor]) -> None:
    torch.save(official, tmp_path / "w.pth")
    model = built(tmp_path, tmp_path / "w.pth", data__channels=1).state_dict()
    assert torch.equal(model["conv1.weight"], official["conv1.weight"].sum(1, keepdim=True))


def test_old_vit_files_with_other_names_load(tmp_path: Path) -> None:
    """As in the official vit_b_16-c867db91.pth, whose tensors torchvision renames when it loads them."""
    torch.manual_seed(12)
    new = models.vit_b_16(num_classes=2, image_size=32).state_dict()
    names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    old = {}
    for key, value in new.items():
        for now, before in names.items():
            key = key.replace(now, before)
        old[key] = value
    assert old.keys() != new.keys()
    torch.save(old, tmp_path / "w.pth")
    loaded = built(tmp_path, tmp_path / "w.pth", 2, "vit_b_16").state_dict()
    assert all(torch.equal(loaded[key], new[key]) for key in new)


def test_weights_load_into_a_users_own_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Linear(4, classes))\n"
    )
    name = f"{tmp_path / 'mine.py'}:build"
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Linear(4, 5)).state_dict()
    torch.save(theirs, tmp_path / "w.pt")
    model = built(tmp_path, tmp_path / "w.pt", 3, name)
    assert torch.equal(model.state_dict()["1.weight"], theirs["1.weight"])
    assert "2.weight, 2.bias not loaded" in warnings[0]


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


def test_mismatched_tensors_are_listed(tmp_path: Path, official: dict[str, Tensor]) -> None:
    file = tmp_path / "w.pth"
    torch.save({**without(official, "conv1.weight"), "stem.weight": torch.zeros(1)}, file)
    with pytest.raises(ConfigError, match=r"it lacks conv1.weight; it has stem.weight, which the model does not have"):
        built(tmp_path, file)
    torch.save({**official, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, file)
    with pytest.raises(ConfigError, match=r"layer1.0.conv1.weight \[64, 64, 1, 1\] instead of \[64, 64, 3, 3\]"):
        built(tmp_path, file)
    torch.save(official, file)
    with pytest.raises(ConfigError, match=r"it lacks .* and \d+ more"):
        built(tmp_path, file, model="resnet34")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "cannot be read"),
        ("w.pth", b"no weights at all", "cannot be read"),
        ("w.safetensors", b"no weights at all", "cannot be read"),
        ("w.safetensors", None, "there is no such file; weights are not downloaded"),
    ],
)
def test_an_invalid_weights_file_is_an_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, tmp_path / name)


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_code_in_a_weights_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": _Harmful()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="cannot be read"):
        built(tmp_path, tmp_path / "w.pth")
    assert "this must not run" not in capsys.readouterr().out
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="does not hold a dictionary of names and tensors"):
        built(tmp_path, tmp_path / "w.pth")


def test_the_published_files_of_tsm_load_into_a_shifted_resnet(tmp_path: Path, official: dict[str, Tensor]) -> None:
    """Names as in https://github.com/mit-han-lab/temporal-shift-module, wrapped in DataParallel."""
    named = {}
    for name, value in official.items():
        shifted = name.replace(".conv1.", ".conv1.net.") if name.startswith("layer") else name
        named[f"module.{shifted.replace('fc.', 'new_fc.') if name.startswith('fc.') else f'base_model.{shifted}'}"] = (
            value
        )
    assert "module.base_model.layer1.0.conv1.net.weight" in named
    torch.save({"state_dict": named, "epoch": 3}, tmp_path / "tsm.pth")
    loaded = built(tmp_path, tmp_path / "tsm.pth", model_args={"temporal": "shift"}).state_dict()
    assert all(torch.equal(loaded[key], official[key]) for key in official)


@pytest.mark.parametrize("channels", [1, 3])
def test_motion_starts_from_the_weights_of_a_model_that_sees_single_frames(
    tmp_path: Path, official: dict[str, Tensor], channels: int
) -> None:
    """A grey frame with two differences has as many channels as a coloured frame."""
    torch.save(official, tmp_path / "w.pth")
    changes: dict[str, Any] = {"model_args": {"temporal": "motion"}, "data__channels": channels}
    first = built(tmp_path, tmp_path / "w.pth", **changes).state_dict()["conv1.weight"]
    expected = official["conv1.weight"] if channels == 3 else official["conv1.weight"].sum(1, keepdim=True)
    assert torch.equal(first[:, :channels], expected)
    assert first.shape[1] == 3 * channels
    assert not first[:, channels:].any()


def test_convolutions_over_time_start_as_the_identity(tmp_path: Path, official: dict[str, Tensor]) -> None:
    """The model begins as that of the file, whatever the frames before."""
    torch.save(official, tmp_path / "w.pth")
    model = built(tmp_path, tmp_path / "w.pth", model_args={"temporal": "conv"}).eval()
    assert "layer1.0.memory.weight, layer1.1.memory.weight, layer2.0.memory.weight" in warnings[0]
    original = models.resnet18(num_classes=7).eval()
    original.load_state_dict(official)
    frames = torch.randn(4, 3, 32, 32)
    with torch.no_grad(), whole_clips(model):
        assert torch.equal(model(frames), original(frames))


def test_a_convolution_over_time_that_is_not_the_identity_must_be_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import sideways\n"
        "from torch import nn\n"
        "def build(classes):\n"
        "    model = nn.Sequential(sideways.CausalConv(3), nn.Flatten(), nn.Linear(3072, classes))\n"
        "    nn.init.ones_(model[0].weight)\n"
        "    return model\n"
    )
    torch.save(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3072, 3)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"it lacks 0\.weight"):
        built(tmp_path, tmp_path / "w.pt", 3, f"{tmp_path / 'mine.py'}:build")


def test_a_file_of_a_model_that_sees_motion_loads_as_it_is(tmp_path: Path, official: dict[str, Tensor]) -> None:
    save_file(official, tmp_path / "own.safetensors", {"model_args": '{"temporal": "motion"}'})
    changes: dict[str, Any] = {"model_args": {"temporal": "motion"}, "data__channels": 1}
    loaded = built(tmp_path, tmp_path / "own.safetensors", **changes).state_dict()
    assert torch.equal(loaded["conv1.weight"], official["conv1.weight"])


def test_skips_of_another_run_are_not_loaded_with_a_warning(tmp_path: Path, official: dict[str, Tensor]) -> None:
    torch.save({**official, "skips.0-2": torch.ones(3, 3)}, tmp_path / "w.pth")
    built(tmp_path, tmp_path / "w.pth")
    assert "skips.0-2 not loaded" in warnings[0]
