"""Losses by name, and the user's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.config.run_file import parse
from common.config.settings import Config
from common.errors import ConfigError
from common.models import build
from common.partition.model_check import check_model
from common.rule.loss import Objective
from common.rule.packet import Packet
from common.rule.tasks import task_of

OWN = """
import torch

def by_row(y, target):
    return (y - target).abs().sum(1)

def mean(y, target):
    return by_row(y, target).mean()

class Squared(torch.nn.Module):
    def forward(self, y, target):
        return (y - target).square().mean()

def table(y, target):
    return (y - target).abs()

def no_tensor(y, target):
    return 0.5

def breaks(y, target):
    return y @ target

def detached(y, target):
    return torch.ones(()).requires_grad_()
"""


def config_with(tmp_path: Path, loss: str, **more: Any) -> Config:
    (tmp_path / "mine.py").write_text(OWN)
    tree = {"ticks": 1, "stages": 1, "task": "regress", "model_args": {"width": 4}, "data": {"train": ".", "slots": 4}}
    tree["data"]["size"] = 16  # type: ignore[index]
    return parse({**tree, "loss": loss.replace("mine", str(tmp_path / "mine")), **more}, "test")


@pytest.mark.parametrize("name", ["mine.py:by_row", "mine.py:mean", "mine.py:Squared", "mse", "l1", "huber"])
def test_a_loss_by_name_or_of_ones_own(tmp_path: Path, name: str) -> None:
    config = config_with(tmp_path, name)
    expected = {
        "by_row": 2 * F.l1_loss(torch.ones(1), torch.zeros(1)),
        "l1": torch.ones(()),
        "huber": torch.tensor(0.5),
    }
    check_model(build(config, 2), config, 2)
    objective, held = Objective(task_of(config, 2)), Packet((4, 3), labels=task_of(config, 2).form)
    held.labels[:] = 0
    held.labels[1] = torch.nan
    loss = objective(torch.ones(4, 2), held, None)
    key = "by_row" if name.endswith(("by_row", "mean")) else name
    assert float(loss) == pytest.approx(float(expected.get(key, torch.ones(()))) * 3 / 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py:table", r"returned \[4, 2\]: it must return a tensor, the loss of each of the 4 rows"),
        ("mine.py:no_tensor", "returned float: it must return a tensor"),
        ("mine.py:breaks", r"fails on outputs \[4, 2\] and targets \[4, 2\] \(torch.float32\): RuntimeError"),
        ("mine.py:detached", "passes no gradient to the outputs"),
        ("mine.py:nothing", "has no function nothing"),
        ("other.py:mean", "there is no file"),
    ],
)
def test_a_loss_that_does_not_fit_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    config = config_with(tmp_path, name)
    with pytest.raises(ConfigError, match=message):
        check_model(build(config, 2), config, 2)


def test_losses_are_of_their_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'loss = "bce" is not one of task = "regress": mse, l1, huber, or path'):
        config_with(tmp_path, "bce")
    with pytest.raises(ConfigError, match='val_metrics compare answers with labels, but task = "predict" has none'):
        config_with(tmp_path, "l1", task="predict", val_metrics=["R2Score"])
