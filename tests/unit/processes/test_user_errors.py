"""Errors in a user's files name the line, and a crash shows their calls alone."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from common.errors import ConfigError
from common.models import build
from common.models.user_code import load_attribute
from common.partition.model_check import check_model
from common.processes.user_errors import describe_error, traceback_of
from tests.support.settings import config_of

MINE = """\
    from torch import nn

    class Block(nn.Module):
        def forward(self, x):
            return scaled(x)

    def scaled(x):
        return x * "2"

    def build(classes):
        return nn.Sequential(Block(), nn.Flatten())

    def misspelt(classes):
        return nn.Sequental()

    def loss(y, target):
        return y.summ()

    def fitting(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(dedent(MINE))
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "misspelt"}, r"no attribute 'Sequental'.* \(mine.py, line 14\)"),
        ({"model": "build"}, r"block 0 fails .* \(mine.py, line 8\)"),
        ({"model": "fitting", "loss": "loss"}, r"no attribute 'summ' \(mine.py, line 17\)"),
    ],
)
def test_the_line_is_named(mine: Path, changes: dict[str, Any], message: str) -> None:
    named = {name: f"{mine}:{function}" for name, function in changes.items()}
    config = config_of(mine.parent, model_args={}, **named)
    with pytest.raises(ConfigError, match=message):
        check_model(build(config, 3), config, 3)


def test_a_file_that_does_not_load_names_the_line(mine: Path) -> None:
    mine.write_text("import torch\n\ntorch.nonsense\n")
    with pytest.raises(ConfigError, match=r"does not load: AttributeError: .* \(mine.py, line 3\)"):
        load_attribute(f"{mine}:build", "model")


def test_a_traceback_has_the_users_calls_alone(mine: Path) -> None:
    model = load_attribute(f"{mine}:build", "model")(3)
    with pytest.raises(TypeError) as raised:
        model(torch.zeros(1, 3, 4, 4))
    text = traceback_of(raised.value)
    assert [line.split(", ")[1] for line in text.splitlines() if str(mine) in line] == ["line 5", "line 8"]
    assert "torch/nn" not in text
    assert text.splitlines()[-1].startswith("TypeError: ")


def test_an_error_of_ours_has_the_whole_traceback() -> None:
    with pytest.raises(ConfigError) as raised:
        load_attribute("gone.py:build", "model")
    error = raised.value
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None  # without this test's own call
    assert describe_error(error) == f"ConfigError: {error}"
    assert "common/models/user_code.py" in traceback_of(error)
