"""A decoded frame becomes pixels: resized, converted from whatever format it has, upright."""

from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from coordinator.stream.probe import check_size

_WIDEST = 16  # a wider frame would be blown up to a strip that fills the memory


@dataclass(frozen=True)
class Turn:
    """How stored pixels become upright ones: rows and columns exchanged, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[height, width, channels] → the same, or [width, height, channels]; a view."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        return pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def turn_of(frame: av.VideoFrame) -> Turn:
    """What the file's display matrix says, rounded to a quarter turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Turn()
    a, b, _, c, d, *_ = np.frombuffer(bytes(cast(bytes, data)), "<i4")  # x' = a·x + c·y, y' = b·x + d·y
    if abs(int(b)) + abs(int(c)) > abs(int(a)) + abs(int(d)):
        return Turn(True, upside_down=bool(b < 0), mirrored=bool(c < 0))
    return Turn(False, upside_down=bool(d < 0), mirrored=bool(a < 0))


class Scaler:
    """Resizes the frames of one file, all to one size. One swscale context serves all: making one costs more than it
    does, and so do threads of its own.
    """

    def __init__(self, first: av.VideoFrame, short_side: int, channels: int) -> None:
        """`first` decides the size and how frames are turned. Raises ValueError where it is too narrow or too large."""
        check_size(first.width, first.height)
        shorter, longer = sorted((first.width, first.height))
        if shorter < 1 or longer > _WIDEST * shorter:
            raise ValueError(f"frames of {first.width} × {first.height} pixels are too narrow to be resized")
        scale = short_side / shorter
        self._width, self._height = (max(short_side, round(side * scale)) for side in (first.width, first.height))
        self._format = "gray" if channels == 1 else "rgb24"
        self._turn = turn_of(first)
        self._context = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """[height, width, channels] uint8."""
        resized = self._context.reformat(
            frame, self._width, self._height, self._format, interpolation=Interpolation.AREA, threads=1
        )
        pixels = resized.to_ndarray().astype(np.uint8, copy=False)
        return self._turn(pixels.reshape(self._height, self._width, -1))
