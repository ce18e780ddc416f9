"""torchvision's models as blocks: outputs, names, and training with cuts at any boundary."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Config
from common.errors import ConfigError
from common.models import build, named_blocks, part
from common.models.chain import Chain
from common.models.temporal import memories
from common.partition.model_check import check_model
from common.rule.memories import Memories
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.stage import Stage
from common.torchvision_import import models
from tests.support.oracles import stages_of
from tests.support.settings import config_of

CLASSES, SIZE = 5, 32
WITHOUT_DRAWS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet34": {},
    "resnet50": {},
    "vgg11": {"dropout": 0.0},
    "vgg16": {"dropout": 0.0},
    "convnext_tiny": {"stochastic_depth": 0.0},
    "mobilenet_v3_large": {"dropout": 0.0},
    "efficientnet_b0": {"dropout": 0.0, "stochastic_depth": 0.0},
    "vit_b_16": {},
}
NAMES = list(WITHOUT_DRAWS)
BLOCKS = dict(zip(NAMES, (10, 18, 18, 11, 16, 23, 18, 19, 14), strict=True))


def settings(folder: Path, name: str, **changes: Any) -> Config:
    defaults = {"model_args": {}, "data__slots": 2, "data__size": SIZE, "stages": 1, "split": [1], "ticks": 9}
    return config_of(folder, model=name, **{**defaults, **changes})


def original(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """torchvision's model with these weights, loaded by name."""
    options = {"image_size": SIZE} if name == "vit_b_16" else {}
    with torch.device("meta"):
        module: nn.Module = getattr(models, name)(num_classes=CLASSES, **options)
    module.load_state_dict(weights, assign=True)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_blocks_equal_torchvisions_model_in_names_order_and_output(tmp_path: Path, name: str) -> None:
    model = build(settings(tmp_path, name), CLASSES)
    theirs = original(name, model.state_dict())
    assert len(model) == len(named_blocks(model)) == BLOCKS[name]
    assert list(model.state_dict()) == list(theirs.state_dict())
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    assert [key for key, _ in model.named_buffers()] == [key for key, _ in theirs.named_buffers()]
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), theirs.eval()(x))
        torch.manual_seed(1)
        trained = model.train()(x)
        torch.manual_seed(1)  # the same random numbers for dropout and stochastic depth
        assert torch.equal(trained, theirs.train()(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_the_seed_gives_the_same_weights_as_in_torchvision(tmp_path: Path, name: str) -> None:
    ours = build(settings(tmp_path, name, seed=7), CLASSES).state_dict()
    torch.manual_seed(7)
    theirs = getattr(models, name)(num_classes=CLASSES).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_parts_keep_the_names_and_share_the_weights(tmp_path: Path, name: str) -> None:
    model = build(settings(tmp_path, name), CLASSES).eval()
    split = [3, 1, len(model) - 4]
    parts = [part(model, split, stage) for stage in range(3)]
    assert [len(piece) for piece in parts] == split
    # a parameter of the whole model comes before its children's; a part has only its own parameters
    assert sorted(key for piece in parts for key in piece.state_dict()) == sorted(model.state_dict())
    whole = dict(model.named_parameters())
    for piece in parts:
        assert all(value is whole[key] for key, value in piece.named_parameters())
        assert all(piece.get_parameter(key) is whole[key] for key, _ in piece.named_parameters())
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, y = model(x), x
        for piece in parts:
            y = piece(y)
    assert torch.equal(y, expected)


def test_one_block_of_a_chain_is_a_chain(tmp_path: Path) -> None:
    model = build(settings(tmp_path, "resnet18"), CLASSES)
    assert isinstance(model, Chain)
    assert [name for name, _ in named_blocks(model)][:3] == ["stem", "layer1.0", "layer1.1"]
    assert {key.rsplit(".", 2)[0] for key in model[2].state_dict()} == {"layer1.1"}
    assert len(model[1:4]) == 3
    assert [len(block) for block in model] == [1] * 10  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["convnext_tiny", "mobilenet_v3_large", "vit_b_16"])
def test_models_can_be_cut_at_every_boundary(tmp_path: Path, name: str) -> None:
    """`check` runs each block alone, forward and backward, on a leaf tensor that it must not change."""
    config = settings(tmp_path, name)
    check_model(build(config, CLASSES), config, CLASSES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n == "vgg16" else []) for n in NAMES])
def test_stages_get_backpropagations_gradients(tmp_path: Path, name: str) -> None:
    """On a constant clip with frozen weights. resnet18 is cut at every boundary, the others into three parts."""
    blocks = BLOCKS[name]
    split = [1] * blocks if name == "resnet18" else [2, blocks - 4, 2]
    frozen = {"optimiser": {"name": "SGD", "lr": 0.0, "args": {}}}
    config = settings(tmp_path, name, model_args=WITHOUT_DRAWS[name], stages=len(split), split=split, **frozen)
    stages = stages_of(config, CLASSES)
    gradients: dict[str, Tensor] = {}
    for stage in stages:
        stage.update = lambda stage=stage: take(stage, gradients)  # type: ignore[method-assign,misc]
    reference, frame = Reference(stages, config.frame_shape), Packet(config.frame_shape)
    torch.manual_seed(0)
    frame.tensor.normal_()
    frame.clips[:], frame.labels[:] = [0, 1], [2, 4]
    for tick in range(2 * len(split) - 1):
        frame.set_header(tick - 1, tick)
        reference.tick(frame)
    whole = original(name, build(config, CLASSES).state_dict())
    for module in whole.modules():  # the pipeline's models were built without random layers
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    F.cross_entropy(whole(frame.tensor), torch.tensor([2, 4])).backward()
    expected = {key: value.grad for key, value in whole.named_parameters()}
    assert gradients.keys() == expected.keys()
    # convnext passes permuted views between its blocks; edges make them contiguous, and other kernels round differently
    tolerance = {"rtol": 1e-3, "atol": 1e-5} if name == "convnext_tiny" else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(gradients, expected, **tolerance)  # type: ignore[arg-type]


def take(stage: Stage, into: dict[str, Tensor]) -> None:
    into.update({key: value.grad for key, value in stage.blocks.named_parameters() if value.grad is not None})
    stage.blocks.zero_grad(set_to_none=True)


def test_a_grey_model_equals_the_rgb_model_on_a_grey_image(tmp_path: Path) -> None:
    rgb = build(settings(tmp_path, "resnet18"), CLASSES).eval()
    grey = build(settings(tmp_path, "resnet18", data__channels=1), CLASSES).eval()
    x = torch.randn(2, 1, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), rgb(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "efficientnet_b0"])
def test_group_normalisation_replaces_batch_normalisation_on_request(tmp_path: Path, name: str) -> None:
    model = build(settings(tmp_path, name, model_args={"norm": "group"}), CLASSES)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert torch.isfinite(model(torch.randn(2, 3, SIZE, SIZE))).all()


def test_unsupported_arguments_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.size = 40 must be a multiple of 16: use 32, or 224"):
        build(settings(tmp_path, "vit_b_16", data__size=40), CLASSES)
    with pytest.raises(ConfigError, match="vit_b_16 needs square frames"):
        build(settings(tmp_path, "vit_b_16", data__size=[32, 48]), CLASSES)
    for name, changes, message in (
        ("vgg11", {"data__size": 16}, r"block conv8 fails on an input \[2, 512, 1, 1\]"),
        ("resnet18", {"data__slots": 1}, r"block layer4.0 fails .* Expected more than 1 value per channel"),
    ):
        config = settings(tmp_path, name, **changes)
        with pytest.raises(ConfigError, match=message):
            check_model(build(config, CLASSES), config, CLASSES)
    with pytest.raises(ConfigError, match=r"norm = 'layer' is unknown. Allowed: 'batch', 'group'"):
        build(settings(tmp_path, "resnet18", model_args={"norm": "layer"}), CLASSES)


@pytest.mark.parametrize("temporal", ["motion", "shift", "conv"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_with_memory_keep_the_names_and_start_of_a_clip(tmp_path: Path, name: str, temporal: str) -> None:
    """On the first frame of a clip all of its past is that frame."""
    plain = build(settings(tmp_path, name), CLASSES).eval()
    model = build(settings(tmp_path, name, model_args={"temporal": temporal}), CLASSES).eval()
    assert len(model) == len(plain)
    assert bool(memories(model))
    assert {key for key in model.state_dict() if not key.endswith("memory.weight")} == set(plain.state_dict())
    x = torch.randn(2, 3, SIZE, SIZE)
    weights = plain.state_dict()
    if temporal == "motion":
        weights["conv1.weight"] = torch.cat([weights["conv1.weight"], *[torch.zeros(64, 3, 7, 7)] * 2], 1)
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))


def test_a_shifted_resnet_sees_earlier_frames_in_every_residual_block(tmp_path: Path) -> None:
    model = build(settings(tmp_path, "resnet18", model_args={"temporal": "shift"}), CLASSES).eval()
    assert list(memories(model)) == [f"layer{layer}.{block}.memory" for layer in (1, 2, 3, 4) for block in (0, 1)]
    remembered = Memories(model)
    frames, outputs = torch.randn(6, 1, 3, SIZE, SIZE), []
    with torch.no_grad():
        for number, x in enumerate(frames):
            remembered.begin(np.zeros(1, np.int64), number, x.device)
            outputs.append(model(x))
        assert torch.equal(outputs[0], model(frames[0]))
        assert not torch.allclose(outputs[5], model(frames[5]))


def test_a_copy_of_a_resnet_with_memory_has_its_own(tmp_path: Path) -> None:
    model = build(settings(tmp_path, "resnet18", model_args={"temporal": "conv"}), CLASSES)
    with torch.device("meta"):
        copy = deepcopy(model).to("meta")
        assert copy(torch.empty(2, 3, SIZE, SIZE)).shape == (2, CLASSES)
