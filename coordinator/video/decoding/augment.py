"""Random crop, flip and colour jitter by torchvision.transforms.v2.functional, drawn once per playing of a clip.

Redrawn at each frame, they would destroy the smoothness between frames that Sideways depends on.

The random numbers come from a generator per playing. torchvision's random transforms use torch's global generator,
which would be shared with everything else in the process. Colour jitter that is off draws no random numbers, so that
runs without it give the same frames whatever kinds of jitter there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from coordinator.video.decoding.scaler import Picture

if TYPE_CHECKING:
    from torch import Tensor  # at run time torch is imported only where needed: decoders start without it

_WORDS = {size: (np.dtype(f">u{size}"), np.dtype(f"<u{size}")) for size in (1, 2, 4, 8)}  # made once: slow to create
_WIDE = 65535  # the largest pixel of 16 bits
Colours = tuple[float, float, float, float]  # factors of brightness, contrast, saturation; shift of the hue
UNCHANGED: Colours = (1.0, 1.0, 1.0, 0.0)
_TRIES = 10  # as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Augment:
    """The augmentation drawn for one playing of a clip, applied to all its frames.

    Attributes:
        top, left, height, width: the crop, in pixels.
        shape: height and width of the result, in pixels.
        mirrored: whether it is flipped horizontally.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: shift, as in torchvision's `adjust_hue`; 0 changes nothing.
        later: whether brightness, contrast, saturation and hue are left to the first stage.
    """

    top: int
    left: int
    height: int
    width: int
    shape: tuple[int, int]
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    later: bool = False

    @property
    def colours(self) -> Colours:
        """Factors and shift."""
        return self.brightness, self.contrast, self.saturation, self.hue

    @property
    def plain(self) -> bool:
        """Whether it only crops and flips here, so that no pixel is computed."""
        return (self.height, self.width) == self.shape and (self.later or self.colours == UNCHANGED)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        """[n, channels, height, width] → [n, channels, *shape], contiguous; uint8 or uint16."""
        return np.ascontiguousarray(self.view(frames))

    def view(self, frames: NDArray[Any]) -> NDArray[Any]:
        """The same, maybe not contiguous: a plain crop is a view and costs nothing until it is copied."""
        cut = frames[..., self.top : self.top + self.height, self.left : self.left + self.width]
        pixels = cut if self.plain else self._computed(cut)
        return pixels[..., ::-1] if self.mirrored else pixels

    def write(self, pictures: Sequence[Picture] | NDArray[Any], out: NDArray[Any]) -> None:
        """Augment n pictures into the first n rows of `out`, [≥ n, channels, *shape]."""
        if not self.plain:
            out[: len(pictures)] = self.view(np.array(pictures))
            return
        crop = ..., slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        copy = _mirror if self.mirrored else _copy
        if isinstance(pictures, np.ndarray):
            copy(pictures[crop], out[: len(pictures)])
            return
        for picture, place in zip(pictures, out, strict=False):
            for channel, pixels in zip(picture, place, strict=True):
                copy(channel[crop], pixels)

    def _computed(self, pixels: NDArray[Any]) -> NDArray[Any]:
        import torch

        from common.torchvision_import import v2

        functional = v2.functional
        frames: Tensor = torch.from_numpy(np.ascontiguousarray(pixels))
        wide = frames.dtype == torch.uint16
        if wide:  # torchvision knows 8 bits, and floats from 0 to 1
            frames = frames.float() / _WIDE
        if (self.height, self.width) != self.shape:
            frames = functional.resize(frames, list(self.shape), antialias=True)
        if not self.later:
            frames = self._jittered(frames, functional)
        return (frames * _WIDE).round().to(torch.uint16).numpy() if wide else frames.numpy()

    def _jittered(self, frames: Tensor, functional: Any) -> Tensor:
        if self.brightness != 1:
            frames = functional.adjust_brightness(frames, self.brightness)
        if self.contrast != 1:
            frames = functional.adjust_contrast(frames, self.contrast)
        if self.saturation != 1:
            frames = functional.adjust_saturation(frames, self.saturation)
        return functional.adjust_hue(frames, self.hue) if self.hue else frames


def _copy(pixels: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = pixels


def _mirror(pixels: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy rows in reverse, up to 8 pixels at once: as words in reverse order with their bytes swapped."""
    word = math.gcd(pixels.shape[-1], 8)
    if pixels.itemsize > 1:
        out[:] = pixels[..., ::-1]
        return
    if pixels.strides[-1] != 1:  # rotated by a quarter turn: rows are not contiguous
        word = 1
    backward, forward = _WORDS[word]
    out.view(backward)[:] = pixels.view(forward)[..., ::-1]


def draw(shape: Sequence[int], data: Data, random: np.random.Generator) -> Augment:
    """Draw the augmentation for one playing of a clip whose frames have shape (height, width)."""
    height, width = shape
    top, left, height, width = _crop(height, width, data, random)
    mirrored = bool(random.random() < data.flip)
    factors = {
        name: 1 + random.uniform(-span, span)
        for name in ("brightness", "contrast", "saturation")
        if (span := getattr(data, name))
    }
    hue = random.uniform(-data.hue, data.hue) if data.hue else 0.0
    later = data.jittered_later
    return Augment(top, left, height, width, data.shape, mirrored, **factors, hue=hue, later=later)


def middle(frames: NDArray[Any], size: int | tuple[int, int]) -> Augment:
    """The centre crop of frames [..., height, width], for evaluation."""
    return centre(frames.shape[-2:], size)


def centre(shape: Sequence[int], size: int | tuple[int, int]) -> Augment:
    """The same, for frames of shape (height, width). `size`: side of the square, or height and width."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return Augment((shape[0] - rows) // 2, (shape[1] - columns) // 2, rows, columns, (rows, columns))


def _crop(height: int, width: int, data: Data, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, or of a random-resized one."""
    rows, columns = data.shape if data.scale is None else _box(height, width, data.scale, _ratio(data), random)
    top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
    return int(top), int(left), rows, columns


def _ratio(data: Data) -> tuple[float, float]:
    """Smallest and largest width / height of a random-resized crop."""
    shape = data.shape[1] / data.shape[0]
    return data.ratio[0] * shape, data.ratio[1] * shape


def _box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], random: np.random.Generator
) -> tuple[int, int]:
    """Height and width of a crop with a random fraction of the area and a random aspect ratio (width / height)."""
    for _ in range(_TRIES):
        area = height * width * random.uniform(*scale)
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, columns = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    rows, columns = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))  # as much as fits
    return max(1, rows), max(1, columns)
