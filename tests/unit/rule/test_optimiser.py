"""Learning rates, weight decay, clipping, the average of the weights, and their state in a checkpoint."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.settings import Optimiser
from common.rule.learning_rate import rate_factor
from common.rule.optimiser import build_optimiser
from common.rule.updater import Updater

SGD = {"name": "SGD", "lr": 0.1, "args": {}}


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def draw(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    model(torch.randn(3, 4)).square().sum().backward()


def step(model: nn.Module, updater: Updater, seed: int) -> None:
    draw(model, seed)
    updater.update()


def test_learning_rate_schedules_match_hand_computed_values() -> None:
    def factors(ticks: list[int], total_ticks: int = 100, **settings: object) -> list[float]:
        return [round(rate_factor(Optimiser(**settings), tick, total_ticks), 4) for tick in ticks]

    assert factors([0, 50, 99]) == [1, 1, 1]
    assert factors([0, 1, 3, 4, 50], warmup=4) == [0.2, 0.4, 0.8, 1, 1]
    assert factors([0, 50, 100], schedule="cosine") == [1, 0.5, 0]
    assert factors([100, 1000], schedule="cosine", final=0.1) == [0.1, 0.1]
    assert factors([0, 49, 50, 75], schedule="step") == [1, 1, 0.1, 0.01]
    assert factors([0, 15, 30, 65, 100], schedule="one-cycle") == [0, 0.5, 1, 0.5, 0]
    assert factors([10, 60, 110], 110, schedule="cosine", warmup=10) == [1, 0.5, 0]


@given(
    schedule=st.sampled_from(["constant", "cosine", "step", "one-cycle"]),
    tick=st.integers(0, 10_000),
    total_ticks=st.integers(0, 10_000),
    warmup=st.integers(0, 500),
    final=st.floats(0, 1),
)
def test_learning_rate_factors_stay_within_bounds(
    schedule: str, tick: int, total_ticks: int, warmup: int, final: float
) -> None:
    settings = Optimiser(schedule=schedule, warmup=warmup, final=final)
    assert 0 <= rate_factor(settings, tick, total_ticks) <= 1 + 1e-12


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = blocks()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    updater = Updater(model, Optimiser(**SGD | {"args": {"weight_decay": 0.5}}), 1, 0, 1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    updater.update()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "2.weight"}


def test_gradients_get_the_strides_of_their_parameters_even_where_a_size_is_one() -> None:
    """As a GPU's fused optimisers ask for: pytorch/pytorch, issue 106951."""
    convolution = nn.Conv2d(4, 3, 1)
    updater = Updater(convolution, Optimiser(**SGD), 1, 0, 1)
    weight = convolution.weight
    seen: list[tuple[int, ...]] = []
    assert updater.optimiser is not None
    updater.optimiser.register_step_pre_hook(
        lambda *_: seen.append(weight.grad.stride() if weight.grad is not None else ())
    )
    for _ in range(4):
        weight.grad = torch.ones(3, 4).as_strided((3, 4, 1, 1), (4, 1, 7, 9))
        updater.update()
    assert seen == [weight.stride()] * 4


@pytest.mark.parametrize(("decay_all", "groups"), [(False, [2, 4]), (True, [6])])
def test_decay_all_decays_every_parameter(decay_all: bool, groups: list[int]) -> None:
    optimiser = build_optimiser(blocks(), Optimiser(decay_all=decay_all), 0)  # AdamW decays by default
    assert optimiser is not None
    assert [len(group["params"]) for group in optimiser.param_groups] == groups


def test_gradients_are_clipped_to_the_given_norm() -> None:
    model = blocks()
    before = [value.detach().clone() for value in model.parameters()]
    updater = Updater(model, Optimiser(**SGD | {"clip": 0.5}), 1, 0, 1)
    step(model, updater, 1)
    pairs = zip(model.parameters(), before, strict=True)
    moved = math.sqrt(sum(float((a.detach() - b).square().sum()) for a, b in pairs))
    assert moved == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_orthogonal_removes_the_component_along_the_running_mean() -> None:
    model, decay = blocks(), 0.5
    parameters = list(model.parameters())
    updater = Updater(model, Optimiser(**SGD | {"orthogonal": decay}), 1, 0, 1)
    means = [torch.zeros_like(value) for value in parameters]
    for seed in range(5):
        before = [value.detach().clone() for value in parameters]
        draw(model, seed)
        gradients = [value.grad.clone() for value in parameters if value.grad is not None]
        updater.update()
        for index, (gradient, mean) in enumerate(zip(gradients, means, strict=True)):
            share = float((gradient * mean).sum() / mean.square().sum()) if seed else 0.0
            torch.testing.assert_close(parameters[index].detach(), before[index] - 0.1 * (gradient - share * mean))
            means[index] = decay * mean + (1 - decay) * gradient


def test_the_average_is_an_exponential_mean_of_the_weights() -> None:
    model = blocks()
    updater = Updater(model, Optimiser(**SGD | {"ema": 0.5}), 1, 0, 1)
    expected = [value.detach().clone() for value in model.parameters()]
    for seed in range(30):
        step(model, updater, seed)
        decay = min(0.5, (seed + 1) / (10 + seed))
        expected = [decay * a + (1 - decay) * b.detach() for a, b in zip(expected, model.parameters(), strict=True)]
    weights = [value.detach().clone() for value in model.parameters()]
    updater.swap_average()
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    updater.swap_average()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": "Adam", "args": {"betas": [0.9, 0.99], "amsgrad": True}},
        {"name": "SGD", "args": {"momentum": 0.9}},
        {"name": "RMSprop", "args": {"centered": True}},
        {"name": "RAdam", "args": {}},
        {"name": "Adafactor", "args": {}},
        {"ema": 0.9, "schedule": "cosine", "clip": 0.1},
        {"orthogonal": 0.9},
    ],
)
def test_a_saved_and_loaded_state_continues_bit_for_bit(settings: dict[str, object]) -> None:
    whole, half = blocks(), blocks()
    optimiser = Optimiser(**{"lr": 0.01, **settings})
    first, second = (Updater(model, optimiser, 3, 0, 40) for model in (whole, half))
    for seed in range(20):
        step(whole, first, seed)
        step(half, second, seed)
    state = {name: value.clone() for name, value in second.state().items()}
    other = blocks()
    other.load_state_dict(half.state_dict())
    third = Updater(other, optimiser, 3, 0, 40)
    third.load(state)
    third.ticks, third.accumulated, third.updates = second.ticks, second.accumulated, second.updates
    for seed in range(20, 40):
        step(whole, first, seed)
        step(other, third, seed)
    first.swap_average()
    third.swap_average()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    assert any(name.startswith("gradient.") for name in state)  # 20 is not a multiple of 3


def test_a_stage_without_parameters_has_nothing_to_update() -> None:
    updater = Updater(nn.Sequential(nn.Flatten()), Optimiser(ema=0.5), 2, 0, 1)
    updater.update()
    updater.swap_average()
    assert updater.rate is None
    assert updater.state() == {}
    updater.load({"optimiser.other": Tensor()})


def test_an_average_missing_from_a_checkpoint_starts_from_the_weights() -> None:
    model = blocks()
    updater = Updater(model, Optimiser(**SGD | {"ema": 0.9999}), 1, 0, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)  # as if other weights had been loaded
    updater.load({})
    weights = [value.detach().clone() for value in model.parameters()]
    updater.swap_average()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize("changes", [{}, {"schedule": "cosine", "warmup": 3}, {"lr_by_mismatch": True}])
def test_a_changed_rate_acts_like_an_initial_one(changes: dict[str, object]) -> None:
    first, second = blocks(), blocks()
    changed = Updater(first, Optimiser(**SGD | changes), 1, 4, 20)
    changed.set_rate(0.3)
    built = Updater(second, Optimiser(**SGD | changes | {"lr": 0.3}), 1, 4, 20)
    for seed in range(5):
        step(first, changed, seed)
        step(second, built, seed)
        assert changed.rate == built.rate
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_each_part_has_its_own_rate(schedule: str) -> None:
    """SGD moves a parameter by its rate × its gradient. The first pattern that matches counts."""
    model = blocks()
    settings = Optimiser(**SGD | {"schedule": schedule, "rates": {"0": 0.5, "*.bias": 3.0, "2.weight": 0.25}})
    updater = Updater(model, settings, 1, 0, 10)
    factors = {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 1.0, "1.bias": 3.0, "2.weight": 0.25, "2.bias": 3.0}
    for tick, rate in enumerate([0.1, 0.1, 0.7]):
        if tick == 2:
            updater.set_rate(rate)
        draw(model, tick)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        updater.update()
        now = rate * rate_factor(settings, tick, 10)
        assert updater.rate == now
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.detach(), before[name] - now * factors[name] * gradients[name])


def test_rates_of_the_same_factor_change_no_bit() -> None:
    plain, named = blocks(), blocks()
    settings = Optimiser(args={"weight_decay": 0.1})
    first = Updater(plain, settings, 1, 1, 9)
    second = Updater(named, settings.model_copy(update={"rates": {"0": 1.0}}), 1, 1, 9)
    for seed in range(3):
        step(plain, first, seed)
        step(named, second, seed)
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), named.parameters(), strict=True))


def test_a_stage_without_gradients_or_parameters_is_updated_all_the_same() -> None:
    updater = Updater(blocks(), Optimiser(**SGD), every=2, mismatch=0, total_ticks=8)
    for _ in range(4):
        updater.update()
    assert updater.counters.tolist() == [4, 0, 2]
    Updater(nn.Sequential(nn.ReLU()), Optimiser(**SGD), every=1, mismatch=0, total_ticks=8).keep_gradients()


@pytest.mark.parametrize("counted", [0, 1, 3])
def test_a_gradient_that_is_not_counted_gives_the_others_no_more_weight(counted: int) -> None:
    model = blocks()
    updater = Updater(model, Optimiser(**SGD), 4, 0, 10)
    for _ in range(counted):
        step(model, updater, seed=1)
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    draw(model, seed=1)
    updater.discard_last()
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(before) == len(after) == (6 if counted else 0)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old)
