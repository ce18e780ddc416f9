"""Optimisers by name."""

import pytest
from torch import nn

from common.config.settings import Optimiser
from common.errors import ConfigError
from common.rule.optimiser import build_optimiser


def test_any_class_of_torch_optim_can_be_used() -> None:
    blocks = nn.Sequential(nn.Linear(2, 2))
    for name, args in (("AdamW", {"betas": [0.0, 0.9]}), ("SGD", {"momentum": 0.5}), ("RMSprop", {}), ("Adagrad", {})):
        optimiser = build_optimiser(blocks, Optimiser(name=name, lr=0.1, args=args), 0)
        assert type(optimiser).__name__ == name


def test_without_parameters_there_is_no_optimiser() -> None:
    assert build_optimiser(nn.Sequential(nn.Flatten()), Optimiser(), 0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Optimiser(name="adam"), "'adam' is not a usable class of torch.optim. Did you mean Adam\\? Allowed: ASGD"),
        (Optimiser(name="Optimizer"), "is not a usable class of torch.optim. Allowed: ASGD"),
        (Optimiser(args={"beta": 1}), "optimiser.args do not fit torch.optim.AdamW"),
        (Optimiser(args={"betas": [2.0, 0.9]}), "optimiser.args do not fit torch.optim.AdamW"),
    ],
)
def test_an_unusable_optimiser_is_an_error(settings: Optimiser, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimiser(nn.Sequential(nn.Linear(2, 2)), settings, 0)
