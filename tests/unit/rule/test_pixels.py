"""Pixels and floats."""

import pytest
import torch

from common.rule.pixels import Normaliser, Statistic


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.5, 0.2, 0.1], [0.25, 0.1, 0.5])])
def test_the_mean_is_subtracted_and_the_deviation_divided_by(mean: Statistic, std: Statistic) -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    out = torch.empty(frames.shape)
    normalise = Normaliser(mean, std)
    normalise(out, frames)
    means, deviations = ([value] * 3 if isinstance(value, float) else value for value in (mean, std))
    for channel in range(3):
        expected = (frames[:, channel] / 255 - means[channel]) / deviations[channel]
        torch.testing.assert_close(out[:, channel], expected)
    assert torch.equal(normalise.to_pixels(out), frames)


def test_pixels_of_16_bits_are_divided_by_65535() -> None:
    frames = torch.tensor([[[[0, 1, 32768, 65535]]]], dtype=torch.uint16)
    out = torch.empty(frames.shape)
    Normaliser(0.5, 0.25)(out, frames)
    torch.testing.assert_close(out, (frames.float() / 65535 - 0.5) / 0.25)
    narrow = torch.tensor([[[[0, 100, 255]]]], dtype=torch.uint8)
    same = torch.empty(narrow.shape)
    Normaliser(0.5, 0.25)(same, narrow)
    wide = torch.empty(narrow.shape)
    Normaliser(0.5, 0.25)(wide, (narrow.int() * 257).to(torch.uint16))
    torch.testing.assert_close(wide, same)
