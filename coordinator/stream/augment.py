"""Crop and flip by torchvision.transforms.v2, drawn once a clip: redrawn at each frame they would destroy the
smoothness between frames that Sideways lives on.

The draws come from a generator of the clip's own. torchvision's random transforms draw from torch's one global
generator, which decoding threads would share with each other and with everything else in the process.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from common.vision import v2


@dataclass(frozen=True)
class Augment:
    """One clip's choices, applied to any number of its frames. All in pixels."""

    top: int
    left: int
    size: int
    mirrored: bool

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [n, channels, height, width] → uint8 [n, channels, size, size]."""
        cropped = v2.functional.crop(frames, self.top, self.left, self.size, self.size)
        return v2.functional.horizontal_flip(cropped) if self.mirrored else cropped


def draw(frames: Tensor, size: int, flip: float, random: np.random.Generator) -> Augment:
    """A random crop, and a mirrored clip with probability `flip`. `frames` tells the clip's height and width."""
    height, width = frames.shape[-2:]
    top, left = random.integers(0, height - size + 1), random.integers(0, width - size + 1)
    return Augment(int(top), int(left), size, bool(random.random() < flip))


def middle(frames: Tensor, size: int) -> Augment:
    """The middle of the frames as it is, for evaluation."""
    height, width = frames.shape[-2:]
    return Augment((height - size) // 2, (width - size) // 2, size, mirrored=False)
