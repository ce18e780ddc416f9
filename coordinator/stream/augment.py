"""Crop and flip by torchvision.transforms.v2, drawn once a clip: redrawn at each frame they would destroy the
smoothness between frames that Sideways lives on."""

import threading
from typing import Any

import torch
from torch import Tensor

from common.vision import v2

_drawing = threading.Lock()  # torchvision draws from torch's one global generator


class Augment:
    """Training: a random crop and flip. Evaluation: the middle, as it is."""

    def __init__(self, size: int, flip: float, train: bool) -> None:
        """`size` in pixels; `flip` is the probability of a mirrored clip."""
        self._crop = v2.RandomCrop(size) if train else v2.CenterCrop(size)
        self._flip = flip if train else 0.0
        self._train = train

    def draw(self, frames: Tensor, seed: int) -> "Draw":
        """Fix the choices for a clip. `frames` [n, channels, height, width] tells its size; `seed` is the clip's."""
        if not self._train:
            return Draw(self._crop, None, False)
        with _drawing, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters = self._crop.make_params([frames])
            return Draw(self._crop, parameters, bool(torch.rand(()) < self._flip))


class Draw:
    """One clip's choices, applied to any number of its frames."""

    def __init__(self, crop: v2.Transform, parameters: dict[str, Any] | None, mirrored: bool) -> None:
        self._crop, self._parameters, self._mirrored = crop, parameters, mirrored

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [n, channels, height, width] → uint8 [n, channels, size, size]."""
        cropped = self._crop(frames) if self._parameters is None else self._crop.transform(frames, self._parameters)
        return v2.functional.horizontal_flip(cropped) if self._mirrored else cropped
