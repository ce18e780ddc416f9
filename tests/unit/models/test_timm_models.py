"""timm's models as blocks: outputs and names, which of its architectures fit, and what is said of the others."""

import re
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

# of one architecture each: the blocks of 64 × 64 frames
ARCHITECTURES = {
    "cait_xxs24_224": 27,
    "convit_tiny": 14,
    "convmixer_768_32": 66,
    "convnextv2_atto": 17,
    "cs3darknet_focus_s": 14,
    "davit_tiny": 17,
    "deit_tiny_patch16_224": 14,
    "densenet121": 9,
    "dla46x_c": 8,
    "edgenext_xx_small": 17,
    "efficientnet_b0": 19,
    "efficientvit_b0": 25,
    "fasternet_t0": 19,
    "fastvit_t8": 32,
    "focalnet_tiny_srf": 29,
    "ghostnet_050": 20,
    "hgnetv2_b0": 18,
    "hiera_tiny_224": 14,
    "lcnet_035": 16,
    "levit_128s": 29,
    "mobilevit_xxs": 13,
    "mvitv2_tiny": 12,
    "poolformerv2_s12": 17,
    "gmlp_ti16_224": 32,
    "nest_tiny": 16,
    "pit_ti_224": 16,
    "pvt_v2_b0": 13,
    "regnetx_002": 15,
    "repvit_m1": 25,
    "res2next50": 18,
    "resnetv2_18": 10,
    "resnest14d": 8,
    "rexnet_100": 19,
    "skresnet18": 10,
    "swin_tiny_patch4_window7_224": 17,
    "swinv2_tiny_window8_256": 17,
    "test_byobnet": 6,
    "test_coatnet": 9,
    "test_mambaout": 11,
    "test_nfnet": 10,
    "tiny_vit_5m_224": 17,
    "visformer_tiny": 20,
    "eva02_tiny_patch14_224": 14,
    "xception41p": 18,
}


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


@pytest.mark.long
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_that_fit(tmp_path: Path, name: str) -> None:
    """`check_model` runs each block alone, forward and backward, on a leaf tensor that it must not change."""
    size = 70 if name.endswith("patch14_224") else 64
    chain = built(tmp_path, name, size)
    assert len(chain) == ARCHITECTURES[name]
    same(chain, original(name, size, chain.state_dict()), torch.randn(2, 3, size, size))
    check_model(chain, config_of(tmp_path, data__size=size, data__slots=2), CLASSES)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("twins_svt_small", 64, r"returned Twins, which cannot be cut into blocks: Twins.forward cannot be traced"),
        ("tnt_s_legacy_patch16_224", 64, r"into 2 blocks. No other can begin: at blocks.0, pixel_embed, .* pass"),
        ("coat_tiny", 64, r"into 5 blocks. No other can begin: at serial_blocks1.1, .*cpe1.proj.weight.* pass"),
    ],
)
def test_architectures_that_do_not_fit_are_told(tmp_path: Path, name: str, size: int, message: str) -> None:
    config = config_of(tmp_path, model=f"timm:{name}", model_args={}, data__size=size, data__slots=2, stages=64)
    told: list[str] = []
    try:
        build(config, CLASSES, told.append)
    except ConfigError as error:
        told.append(str(error))
    assert any(re.search(message, text) for text in told), told
