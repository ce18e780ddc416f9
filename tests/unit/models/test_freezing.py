"""Parts of a model that are not trained."""

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.models.freezing import freeze


def model() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    second = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    parts = {"stem": first, "layer1": second, "head": nn.Sequential(nn.Flatten(), nn.LazyLinear(3))}
    found = nn.Sequential()
    for name, module in parts.items():
        found.add_module(name, module)
    found(torch.zeros(1, 1, 8, 8))
    return found


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        ([], {"stem.0", "stem.1", "layer1.0", "layer1.1", "head.1"}),
        (["stem"], {"layer1.0", "layer1.1", "head.1"}),
        (["stem", "layer?"], {"head.1"}),
        (["*.bias", "layer1.0"], {"stem.0", "stem.1", "layer1.1", "head.1"}),
    ],
)
def test_what_matches_is_not_trained(patterns: list[str], trained: set[str]) -> None:
    own = model()
    freeze(own, patterns)
    found = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[0] for name in found} == trained
    assert not ("*.bias" in patterns and any(name.endswith("bias") for name in found))


def test_a_frozen_batchnorm_keeps_its_running_statistics() -> None:
    own = model()
    freeze(own, ["stem"])
    own.train()
    before = {name: value.clone() for name, value in own.named_buffers()}
    x = torch.randn(4, 1, 8, 8)
    y = own[0](x)
    changed = {name for name, value in own.named_buffers() if not torch.equal(value, before[name])}
    assert not changed
    own.eval()
    assert torch.equal(y, own[0](x))
    own.train()
    own(x)
    changed = {name for name, value in own.named_buffers() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"layer1"}


@pytest.mark.parametrize(("patterns", "message"), [(["stam"], "'stam' matches no parameter"), (["*"], "leaves no")])
def test_bad_patterns_are_errors(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(model(), patterns)
