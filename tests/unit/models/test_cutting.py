"""Any module is cut where one tensor passes: outputs, gradients, names and what differs in training stay the same."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models import build, named_blocks, part
from common.models.chain import Chain, layered
from common.models.cutting import cut
from common.models.temporal import TemporalShift, memories
from common.partition.model_check import check_model
from tests.support.models import Residual, Whole, user_model
from tests.support.settings import config_of

FRAME = (3, 16, 16)
SUPPORT = Path(__file__).parents[2] / "support/models.py"


def whole() -> Whole:
    torch.manual_seed(0)
    return Whole(5)


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
    torch.manual_seed(1)
    y = model(x)
    y.square().sum().backward()
    return y.detach(), {name: value.grad for name, value in model.named_parameters()}


def test_blocks_begin_at_modules_with_weights_and_keep_their_names() -> None:
    model = whole()
    chain = cut(model, FRAME).chain
    assert chain.block_names == ["stem", "stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1", "head"]
    assert {name: value.shape for name, value in chain.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert {name: id(value) for name, value in chain.named_parameters()} == {
        name: id(value) for name, value in model.named_parameters()
    }


def test_cutting_leaves_no_trace() -> None:
    model = whole()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    cut(model, FRAME)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_outputs_gradients_and_statistics_are_the_models_bit_for_bit(training: bool, rows: int) -> None:
    """Dropout, BatchNorm, and what the forward method itself does in training only."""
    chain = cut(whole(), FRAME).chain.train(training)
    model = whole().train(training)
    x = torch.randn(rows, *FRAME)
    (ours, own), (theirs, expected) = run(chain, x), run(model, x)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close([own[name] for name in expected], list(expected.values()), rtol=0.0, atol=0.0)
    assert all(torch.equal(value, chain.state_dict()[name]) for name, value in model.state_dict().items())


def test_stages_of_a_cut_model_compose_to_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, model=f"{SUPPORT}:whole", model_args={}, stages=3)
    model = build(config, 5)
    check_model(deepcopy(model), config, 5)
    parts = [part(model, [1, 3, 2], stage).eval() for stage in range(3)]
    x = torch.randn(2, *FRAME)
    assert torch.equal(parts[2](parts[1](parts[0](x))), model.eval()(x))
    assert sorted(name for each in parts for name in each.state_dict()) == sorted(model.state_dict())


def test_a_cut_models_rows_of_layers_can_be_cut_further() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU())
            self.head = nn.Linear(100, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).flatten(1))

    chain = cut(Plain(), FRAME).chain
    assert chain.block_names == ["features.0", "features.3", "head"]
    layers = layered(chain, chain.block_names)
    assert [name for name, _ in named_blocks(layers)][:3] == ["features.0", "features.1", "features.2"]
    x = torch.randn(2, *FRAME)
    assert torch.equal(layers(x), chain(x))


def test_a_memory_in_it_stays_one() -> None:
    class Remembers(Residual):
        def __init__(self) -> None:
            super().__init__(3)
            self.shift, self.head = TemporalShift(), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(super().forward(self.shift(x)).mean((2, 3)))

    chain = cut(Remembers(), FRAME).chain
    assert isinstance(chain, Chain)
    assert list(memories(chain)) == ["shift"]


class Two(nn.Module):
    """Two convolutions, between which the frames pass as well, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.spare, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 3, height, width] → [rows, 5]."""
        return self.head((x + self.second(self.first(x))).mean((2, 3)))


class Tied(Two):
    """The first convolution's weights are used by the head as well."""

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 3, height, width] → [rows, 5]."""
        return self.head(self.second(self.first(x)).mean((2, 3)) + self.first.weight.sum())


@pytest.mark.parametrize(
    ("kind", "names", "obstacle"),
    [
        (Two, ["first", "head"], "at second, frames, first pass"),
        (Tied, ["first", "head"], "at second, first.weight, first pass"),
    ],
)
def test_what_passes_where_it_cannot_be_cut_is_said(
    kind: Callable[[], nn.Module], names: list[str], obstacle: str
) -> None:
    found = cut(kind(), FRAME)
    assert found.chain.block_names == names
    assert obstacle in found.obstacles
    assert set(found.chain.state_dict()) == set(kind().state_dict())  # the convolution that is not used, too


def test_a_tuple_that_passes_is_no_place_to_cut() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = Split(), Joined(), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x)).mean((2, 3)))

    found = cut(Pair(), FRAME)
    assert found.chain.block_names == ["first", "head"]
    assert found.obstacles == ["at second, a tuple passes"]


class Split(nn.Conv2d):
    """Returns two tensors."""

    def __init__(self) -> None:
        super().__init__(3, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[rows, 3, height, width] → the same, twice."""
        return x, super().forward(x)


class Joined(nn.Conv2d):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__(3, 3, 1)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Two tensors → their weighted sum."""
        return pair[0] + super().forward(pair[1])


def test_numbers_that_depend_on_the_frames_size_alone_may_pass() -> None:
    """Height, width and the number of rows, which every block sees, and a tuple of a tensor and numbers."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 1), Sized(), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            rows, _, height, width = x.shape
            x, size = self.second(self.first(x).flatten(2), (height, width))
            return self.head(x.reshape(rows, 4, size[0] * width).mean(2))

    found = cut(Tokens(), FRAME)
    assert found.chain.block_names == ["first", "second", "head"]
    assert not found.obstacles
    model, x = Tokens().eval(), torch.randn(5, *FRAME)
    model.load_state_dict(found.chain.state_dict())
    assert torch.equal(found.chain.eval()(x), model(x))


class Normalised(nn.Module):
    """Computes with buffers, with a tensor that is no buffer, and with a number that depends on the pixels."""

    mean: Tensor
    gain: Tensor

    def __init__(self, is_size: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.is_size = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), is_size
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("gain", torch.tensor(1.0))
        self.offset = torch.tensor(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 3, height, width] → [rows, 5]."""
        x = self.first((x - self.mean.view(1, 3, 1, 1)) * (1 / self.gain)) - self.offset
        scale = x.shape[3] if self.is_size else x.abs().max().item()
        return self.second(x.relu()).mean((2, 3)).view(x.shape[0], -1) / scale


def test_blocks_compute_with_the_buffers_that_are_loaded_and_keep_their_names() -> None:
    model = Normalised()
    chain = cut(deepcopy(model), FRAME).chain
    assert chain.block_names == ["first", "second"]
    assert chain.state_dict().keys() == model.state_dict().keys()
    state = {**model.state_dict(), "mean": torch.tensor([1.0, 2.0, 3.0]), "gain": torch.tensor(4.0)}
    model.load_state_dict(state)
    chain.load_state_dict(state)
    x = torch.randn(2, *FRAME)
    assert torch.equal(chain(x), model(x))


def test_a_number_that_depends_on_the_pixels_is_no_constant() -> None:
    model, x = Normalised(is_size=False), 7 * torch.randn(2, *FRAME)
    assert torch.equal(cut(deepcopy(model), FRAME).chain(x), model(x))


class Sized(nn.Conv2d):
    """Returns its output and the frame's size."""

    def __init__(self) -> None:
        super().__init__(4, 4, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:  # type: ignore[override]
        """[rows, 4, height × width] → [rows, 4, height, width], size."""
        return super().forward(x.unflatten(2, size)), size


BROKEN = """
class Model(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)
    def forward(self, x{arguments}):
        {first}
        return {result}

def build(classes):
    return Model(classes)
"""


@pytest.mark.parametrize(
    ("first", "result", "arguments", "message"),
    [
        ("if x.sum() > 0: x = -x", "self.head(x.mean((2, 3)))", "", r"Model.forward cannot be traced: TraceError"),
        ("y = self.head(x.mean((2, 3)))", "(y, y)", "", "in evaluation it returns tuple"),
        ("y = self.head(x.mean((2, 3)))", "y if self.training else [y]", "", "in evaluation it returns list"),
        ("pass", "self.head(x)", "", r"fails on frames \[2, 3, 16, 16\]: RuntimeError"),
        ("pass", "self.head(x.mean((2, 3)) + y)", ", y", r"fails on frames .* missing 1 required positional argument"),
    ],
)
def test_models_that_cannot_be_cut_are_errors(
    tmp_path: Path, first: str, result: str, arguments: str, message: str
) -> None:
    name = user_model(tmp_path, BROKEN.format(first=first, result=result, arguments=arguments))
    with pytest.raises(ConfigError, match=f"returned Model, which cannot be cut into blocks: .*{message}.*Return an"):
        build(config_of(tmp_path, model=name, model_args={}), 5)


def test_more_stages_than_blocks_say_why_there_are_no_more(tmp_path: Path) -> None:
    source = "from tests.unit.models.test_cutting import Two\n\ndef build():\n    return Two()"
    warnings: list[str] = []
    build(config_of(tmp_path, model=user_model(tmp_path, source), model_args={}, stages=4), 5, warnings.append)
    assert "is cut into 2 blocks. No other can begin: at second, frames, first pass" in warnings[0]


OWN = """
class Own(nn.Sequential):
    def forward(self, x):
        return super().forward(x * 0.1) * 3


def blocks(i):
    return [nn.Conv2d(i, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]


def build(classes, channels):
    return Own(*blocks(channels))


def hooked(classes, channels):
    model = nn.Sequential(*blocks(channels))
    model.register_forward_hook(lambda module, inputs, y: y * 3)
    return model
"""


def test_a_sequential_with_a_forward_method_of_its_own_is_traced_like_any_module(tmp_path: Path) -> None:
    """Its blocks alone would be another model."""
    model = build(config_of(tmp_path, model=user_model(tmp_path, OWN), model_args={}, stages=2, split=None), 5)
    assert isinstance(model, Chain)
    torch.manual_seed(0)
    frames = torch.rand(2, *FRAME)
    y = frames
    for stage in range(2):
        y = part(model, [1, len(model) - 1], stage)(y)
    blocks = nn.Sequential(*(model.get_submodule(str(number)) for number in range(5)))
    assert torch.equal(y, blocks(frames * 0.1) * 3)
    reference = user_model(tmp_path, OWN).replace(":build", ":hooked")
    with pytest.raises(ConfigError, match="it would compute something else"):
        build(config_of(tmp_path, model=reference, model_args={}, stages=2, split=None), 5)


def test_a_sequence_with_hooks_stays_a_whole_layer() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    inner.register_forward_hook(lambda module, inputs, y: y * 3)
    model = nn.Sequential(inner, nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    assert layered(model, ["0", "1"]).block_names == ["0", "1.0", "1.1"]
