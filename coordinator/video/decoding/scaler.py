"""A decoded frame becomes pixels: resized, converted from whatever format it has, upright."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from coordinator.video.decoding.media_info import check_size, reason
from coordinator.video.decoding.packets import Damage

Picture = list[NDArray[np.uint8]]  # a frame's channels: grey, or red, green and blue; each [height, width]

_own = threading.local()
_WIDEST = 16  # a wider frame would be blown up to a strip that fills the memory


@dataclass(frozen=True)
class Turn:
    """How stored pixels become upright ones: rows and columns exchanged, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[height, width] → the same, or [width, height]; a view."""
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
    """Resizes the frames of one file, all to one size. One swscale context serves all files that a thread reads, as
    making one costs more than several conversions; threads of swscale's own cost more than they save.
    """

    def __init__(self, first: av.VideoFrame, short_side: int, channels: int, damage: Damage | None = None) -> None:
        """`first` decides the size and how frames are turned; frames that cannot be converted are added to `damage`.

        Raises:
            ValueError: the first one is too narrow or too large.
            av.FFmpegError: it cannot be converted.
        """
        check_size(first.width, first.height)
        shorter, longer = sorted((first.width, first.height))
        if shorter < 1 or longer > _WIDEST * shorter:
            raise ValueError(f"frames of {first.width} × {first.height} pixels are too narrow to be resized")
        scale = short_side / shorter
        self._width, self._height = (max(short_side, round(side * scale)) for side in (first.width, first.height))
        self._format = "gray" if channels == 1 else _colours(self._width)
        self._turn = turn_of(first)
        self._turns = self._turn != Turn()
        upright = self._height, self._width
        self.shape = upright[::-1] if self._turn.transposed else upright  # height and width of what comes out
        self._damage = damage or Damage()
        self._last = self._converted(first)

    def __call__(self, frame: av.VideoFrame) -> Picture:
        """The channels, views of FFmpeg's own memory; of a frame that cannot be converted, those of the one before."""
        try:
            self._last = self._converted(frame)
        except (av.FFmpegError, ValueError) as error:
            self._damage.add(reason(error))
        return self._last

    def _converted(self, frame: av.VideoFrame) -> Picture:
        resized = _context().reformat(
            frame, self._width, self._height, self._format, interpolation=Interpolation.AREA, threads=1
        )
        channels = self._channels(resized.planes)
        return [self._turn(channel) for channel in channels] if self._turns else channels

    def _channels(self, planes: Sequence[VideoPlane]) -> Picture:
        if self._format == "gbrp":
            green, blue, red = planes
            return [self._pixels(red), self._pixels(green), self._pixels(blue)]
        if self._format == "gray":
            return [self._pixels(planes[0])]
        packed = self._pixels(planes[0], 3)
        return [packed[:, number::3] for number in range(3)]

    def _pixels(self, plane: VideoPlane, each: int = 1) -> NDArray[np.uint8]:
        shape, strides = (self._height, self._width * each), (plane.line_size, 1)  # rows are padded
        return np.ndarray(shape, np.uint8, cast(memoryview, plane), 0, strides)


def _context() -> VideoReformatter:
    """This thread's own."""
    context: VideoReformatter | None = getattr(_own, "context", None)
    if context is None:
        context = _own.context = VideoReformatter()
    return context


def _colours(width: int) -> str:
    """Planar where it can be: a channel is then copied row by row, where packed pixels have to be picked apart.

    FFmpeg's fast conversion to planes leaves the end of a row undone where the width is no multiple of 16 pixels.
    """
    return "rgb24" if width % 16 else "gbrp"
