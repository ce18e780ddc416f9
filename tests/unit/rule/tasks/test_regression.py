"""Numbers as labels."""

import pytest
import torch
import torch.nn.functional as F

import common.torchvision_import  # noqa: F401  makes torchvision importable, which torchmetrics imports
from common.rule.clip_sums import Scores
from common.rule.tasks.regression import Regression

TASK = Regression(3, F.mse_loss)


def test_the_figures_equal_torchmetrics() -> None:
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

    torch.manual_seed(0)
    labels = torch.randn(50, 3)
    values, frames = labels + 0.3 * torch.randn(50, 3), torch.randint(1, 5, (50,))
    found = TASK.figures(Scores(torch.arange(50), labels, frames, values.double() * frames[:, None])).values
    assert found == {
        "mse": pytest.approx(float(mean_squared_error(values, labels)), rel=1e-5),
        "mae": pytest.approx(float(mean_absolute_error(values, labels)), rel=1e-5),
        "r2": pytest.approx(float(r2_score(values, labels)), rel=1e-5),
    }


def test_numbers_that_do_not_vary_have_no_r2() -> None:
    one = torch.ones(4, 3)
    assert "r2" not in TASK.figures(Scores(torch.arange(4), one, torch.ones(4), one.double())).values
    assert "needs an output [4, 3 numbers]" in TASK.misfit([4, 1], [4, 3, 8, 8])
    assert TASK.misfit([4, 3], [4, 3, 8, 8]) == ""
