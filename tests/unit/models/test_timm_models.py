"""timm's models as blocks: outputs and names, which of its architectures fit, and what is said of the others."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models import build
from common.models.chain import Chain
from common.models.timm_models import load_timm
from common.partition.model_check import check_model
from tests.support.settings import config_of

CLASSES = 5
QUICK = {"test_resnet": 8, "test_vit": 8, "test_convnext": 14}


def built(folder: Path, name: str, size: int = 64, **changes: Any) -> Chain:
    defaults = {"model_args": {}, "data__size": size, "data__slots": 2, "stages": 1, "split": [1]}
    model = build(config_of(folder, model=f"timm:{name}", **{**defaults, **changes}), CLASSES)
    assert isinstance(model, Chain)
    return model


def original(name: str, size: int, weights: dict[str, Tensor], channels: int = 3) -> nn.Module:
    """timm's model with these weights, loaded by name."""
    timm = load_timm()
    sized = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, in_chans=channels, **sized)
    model.load_state_dict(weights)
    return model


def same(chain: Chain, theirs: nn.Module, x: Tensor) -> None:
    """Outputs in both modes, gradients, and names."""
    assert set(chain.state_dict()) == set(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(chain.eval()(x), theirs.eval()(x))
    outputs = []
    for model in (chain, theirs):
        torch.manual_seed(1)  # the same random numbers for dropout and stochastic depth
        outputs.append(model.train()(x))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    own, expected = ({name: value.grad for name, value in model.named_parameters()} for model in (chain, theirs))
    used = [name for name, value in expected.items() if value is not None]
    torch.testing.assert_close([own[name] for name in used], [expected[name] for name in used], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", QUICK)
def test_blocks_equal_timms_model(tmp_path: Path, name: str) -> None:
    chain = built(tmp_path, name)
    assert len(chain) == QUICK[name]
    same(chain, original(name, 64, chain.state_dict()), torch.randn(2, 3, 64, 64))


def test_what_timm_does_not_have_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"has no such model. Did you mean (.* or )?convnextv2_nano"):
        built(tmp_path, "convnext2_nano")
    with pytest.raises(ConfigError, match=r"model_args = {'depth': 3}: TypeError"):
        built(tmp_path, "test_resnet", model_args={"depth": 3})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'needs the package timm: pip install "sideways-video\[timm\]"'):
        built(tmp_path, "test_resnet")


def test_frames_that_a_model_does_not_take_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be cut into blocks: it fails on frames \[2, 3, 16, 16\]"):
        built(tmp_path, "test_convnext", 16)


def test_grey_frames_and_arguments_reach_the_model(tmp_path: Path) -> None:
    chain = built(tmp_path, "test_vit", 32, data__channels=1, model_args={"drop_path_rate": 0.1})
    assert chain(torch.zeros(2, 1, 32, 32)).shape == (2, CLASSES)
    assert any(getattr(module, "drop_prob", 0) for module in chain.modules())
    check_model(chain, config_of(tmp_path, data__size=32, data__slots=2, data__channels=1), CLASSES)
