"""Pixels and floats."""

import torch

from common.rule.pixels import normalise


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    out = torch.empty(1, 1, 1, 3)
    normalise(out, torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), mean=0.5, std=0.25)
    torch.testing.assert_close(out.flatten(), torch.tensor([-2.0, -1.2, 2.0]))
