"""The model zoo: blocks, names, reproducible weights, and users' own factories."""

from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.models import build, part
from common.models.shapes import activation_shapes
from tests.support.models import user_model
from tests.support.settings import config_of


@pytest.mark.parametrize(("name", "task"), [("vgg8", "classify"), ("autoencoder", "autoencode")])
def test_parts_compose_to_the_whole_model_and_keep_its_names(tmp_path: Path, name: str, task: str) -> None:
    config = config_of(tmp_path, model=name, task=task, stages=3)
    model = build(config, 5)
    parts = [part(model, [2, 3, 3], stage) for stage in range(3)]
    names = [key for piece in parts for key in piece.state_dict()]
    assert names == list(model.state_dict())
    x = torch.rand(2, 3, 16, 16)
    y = x
    for piece in parts:
        y = piece(y)
    assert torch.equal(y, model(x))
    shapes = activation_shapes(parts, (2, 3, 16, 16))
    assert shapes[-1] == (y.shape, torch.float32)


@pytest.mark.parametrize(("name", "layers"), [("vgg8", 24), ("vgg11", 0), ("resnet18", 0), ("autoencoder", 0)])
def test_a_model_cut_between_layers_is_the_same_model(tmp_path: Path, name: str, layers: int) -> None:
    task = "autoencode" if name == "autoencoder" else "classify"
    whole = build(config_of(tmp_path, model=name, model_args={}, task=task, split=None), 5)
    finer = build(config_of(tmp_path, model=name, model_args={}, task=task, split=None, cuts="layers"), 5)
    assert len(finer) >= max(layers, len(whole))
    assert list(finer.state_dict()) == list(whole.state_dict())
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in finer.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    split = [len(finer) // 3, 1, len(finer) - len(finer) // 3 - 1]
    parts = [part(finer, split, stage) for stage in range(3)]
    assert [key for piece in parts for key in piece.state_dict()] == list(whole.state_dict())
    whole.eval()
    y = x
    for piece in parts:
        y = piece.eval()(y)
    assert torch.equal(y, whole(x))


def test_vgg8_has_eight_weight_layers() -> None:
    from common.models.vgg8 import vgg8

    layers = [module for module in vgg8(10, width=8).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 8


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_activations_keep_their_scale_with_and_without_normalisation(norm: str) -> None:
    from common.models.vgg8 import vgg8

    torch.manual_seed(0)
    model = vgg8(10, width=32, norm=norm)  # type: ignore[arg-type]
    x = torch.randn(4, 3, 64, 64)
    for block in list(model)[:-1]:
        x = block(x)
        assert 0.1 < x.detach().pow(2).mean().sqrt().item() < 10


def test_the_seed_determines_the_weights(tmp_path: Path) -> None:
    first, again, other = (build(config_of(tmp_path, seed=seed), 5).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.conv.weight"], other["conv1.conv.weight"])


def test_a_users_factory_builds_the_model(tmp_path: Path) -> None:
    name = user_model(
        tmp_path, "def build(classes, width=3): return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))"
    )
    model = build(config_of(tmp_path, model=name, model_args={"width": 12}), 7)
    assert model[1].weight.shape == (7, 12)


def test_a_factory_gets_the_arguments_that_it_declares(tmp_path: Path) -> None:
    name = user_model(tmp_path, "def build(size, channels): return nn.Sequential(nn.Linear(size, channels))")
    model = build(config_of(tmp_path, model=name, model_args={}, data__size=20, stages=1, split=None), 7)
    assert model[0].weight.shape == (3, 20)


def test_a_users_model_that_is_not_sequential_can_be_a_chain(tmp_path: Path) -> None:
    """See docs/models.md: a Chain declares which modules each block has, and what it computes between them."""
    name = user_model(
        tmp_path,
        "from common.models.chain import Block, Chain\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True)), nn.Linear(4, classes)\n"
        "def ends(tree, x): return tree.head(x.mean((2, 3)))\n"
        "def build(classes):\n"
        "    return Chain(Net(classes), {'a': Block(('body.0', 'body.1')), 'b': Block(('head',), ends)})",
    )
    config = config_of(tmp_path, model=name, model_args={})
    model = build(config, 7)
    assert list(model.state_dict()) == ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    assert list(part(model, [1, 1], 1).state_dict()) == ["head.weight", "head.bias"]
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def build(): return nn.Conv3d(4, 4, 1)",
            "Conv3d, which cannot be cut into blocks: .* so Conv3d cannot be used: take 2D layers",
        ),
        ("def build(): return nn.Linear(2, 2)", "Linear, which cannot be cut into blocks: it fails on frames"),
        ("def build(): return nn.Sequential()", "must return a model with weights"),
        ("def build(): return 5", "returned int: it must return a model"),
        ("def other(): pass", "has no function build"),
        ("raise RuntimeError('oops')", "does not load: RuntimeError: oops"),
        ("def build(need): pass", "cannot be built"),
    ],
)
def test_an_unsuitable_factory_is_an_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config_of(tmp_path, model=user_model(tmp_path, body), model_args={}), 3)


@pytest.mark.parametrize("name", ["vgg9", "no/such.py:build"])
def test_an_unknown_model_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown|there is no file"):
        build(config_of(tmp_path, model=name), 3)


def test_an_unknown_argument_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be built with model_args = .*breadth.*Its parameters: classes"):
        build(config_of(tmp_path, model_args={"breadth": 3}), 3)


def test_a_rate_for_a_part_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimiser.rates = 'stem' matches no parameter. The model's parts: conv1,"):
        build(config_of(tmp_path, optimiser__rates={"conv1": 0.5, "stem": 0.1}), 3)
