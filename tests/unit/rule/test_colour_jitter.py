"""Colour jitter on a stage's device, against torchvision's in the decoders."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.rule.colour_jitter import ColourJitter
from coordinator.video.decoding.augment import Augment

JITTER = ColourJitter(torch.device("cpu"))
SPANS = {"brightness": (0, 2), "contrast": (0, 2), "saturation": (0, 2), "hue": (-0.5, 0.5)}


def batch(channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise, and nearly grey rows, for which the hue is hard to tell."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (8, channels, 64, 64), np.uint8)
    grey = random.integers(0, 254, (8, 1, 64, 64), np.uint8) + random.integers(0, 3, noise.shape, np.uint8)
    return np.concatenate([noise, grey, np.zeros_like(noise[:1]), np.full_like(noise[:1], 255)])


def drawn(names: Sequence[str], rows: int, seed: int = 0) -> NDArray[np.float64]:
    random, colours = np.random.default_rng(seed), np.tile([1.0, 1.0, 1.0, 0.0], (rows, 1))
    for number, name in enumerate(SPANS):
        if name in names:
            colours[:, number] = random.uniform(*SPANS[name], rows)
    return colours


def by_torchvision(frames: NDArray[np.uint8], colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    each = [
        Augment(0, 0, 64, 64, (64, 64), False, *row)(frame[None])[0] for frame, row in zip(frames, colours, strict=True)
    ]
    return np.stack(each)


@pytest.mark.parametrize(
    ("names", "channels", "levels", "share"),
    [
        (["brightness"], 3, 0, 0.0),
        (["contrast"], 3, 0, 0.0),
        (["brightness", "contrast"], 1, 0, 0.0),
        (["saturation"], 3, 1, 0.01),
        (["hue"], 3, 1, 0.01),
        (list(SPANS), 3, 2, 0.01),
    ],
)
def test_it_equals_torchvisions_but_for_single_levels(
    names: list[str], channels: int, levels: int, share: float
) -> None:
    """`levels`: by how much pixels may differ; `share`: how many of them may."""
    frames = batch(channels)
    colours = drawn(names, len(frames))
    jittered = JITTER(torch.from_numpy(frames), colours).numpy()
    apart = np.abs(jittered.astype(int) - by_torchvision(frames, colours))
    assert not np.array_equal(jittered, frames)
    assert apart.max() <= levels
    assert (apart > 0).mean() <= share


def test_a_row_depends_on_nothing_but_itself_and_its_own_factors() -> None:
    frames = batch(3)
    colours = drawn(list(SPANS), len(frames))
    colours[::3] = 1, 1, 1, 0
    jittered = JITTER(torch.from_numpy(frames), colours)
    assert torch.equal(jittered[::3], torch.from_numpy(frames)[::3])
    for row in range(len(frames)):
        assert torch.equal(JITTER(torch.from_numpy(frames[row : row + 1]), colours[row : row + 1])[0], jittered[row])
