"""Parts of a model that are not trained."""

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.models.freezing import freeze, freeze_norms


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


def test_a_batchnorm_without_parameters_is_frozen_with_the_block_that_it_is_in() -> None:
    inner, outer = nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, affine=False)
    own = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), inner), outer, nn.Conv2d(2, 2, 1))
    freeze(own, ["0"])
    own.train()(torch.randn(4, 1, 8, 8))
    assert [norm.state_dict()["num_batches_tracked"].item() for norm in (inner, outer)] == [0, 1]


@pytest.mark.parametrize(("patterns", "message"), [(["stam"], "'stam' matches no parameter"), (["*"], "leaves no")])
def test_bad_patterns_are_errors(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze(model(), patterns)


def test_frozen_norms_compute_the_same_in_training_and_keep_everything() -> None:
    own = model()
    for name in ("stem.1", "layer1.1"):
        own.get_buffer(f"{name}.running_mean").fill_(0.3)
        own.get_parameter(f"{name}.weight").detach().fill_(2.0)
    freeze_norms(own)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    x = torch.randn(4, 1, 8, 8)
    y = own.train()(x)
    y.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert torch.equal(y, own.eval()(x))
    without = {name for name, value in own.named_parameters() if value.grad is None}
    assert without == {"stem.1.weight", "stem.1.bias", "layer1.1.weight", "layer1.1.bias"}


def test_a_model_without_batchnorm_has_no_norms_to_freeze() -> None:
    with pytest.raises(ConfigError, match="this one has none"):
        freeze_norms(nn.Linear(2, 2))
