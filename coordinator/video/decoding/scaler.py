"""Convert decoded frames to pixels: resized, from any pixel format, and upright."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from coordinator.video.decoding.opening import check_size, reason
from coordinator.video.decoding.packets import Damage

Picture = list[NDArray[Any]]  # a frame's channels: grey, or red, green and blue; uint8 or uint16 [height, width]

_own = threading.local()
_WIDEST = 16  # longest / shortest side; a more elongated frame would be scaled to a strip that exhausts memory


@dataclass(frozen=True)
class Orientation:
    """The transform from stored to upright pixels: transpose, then flip."""

    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """[height, width] → a view of the same shape, or [width, height] if transposed."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        return pixels[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The transform given by the frame's display matrix, rounded to a quarter turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = np.frombuffer(bytes(cast(bytes, data)), "<i4")  # x' = a·x + c·y, y' = b·x + d·y
    if abs(int(b)) + abs(int(c)) > abs(int(a)) + abs(int(d)):
        return Orientation(True, upside_down=bool(b < 0), mirrored=bool(c < 0))
    return Orientation(False, upside_down=bool(d < 0), mirrored=bool(a < 0))


class Scaler:
    """Resizes the frames of one file, all to one size.

    One swscale context per thread serves all files, as creating one costs more than several conversions. swscale's own
    threads cost more than they save.

    Attributes:
        shape: height and width of the pixels returned.
    """

    def __init__(
        self,
        first: av.VideoFrame,
        short_side: int | tuple[int, int],
        channels: int,
        damage: Damage | None = None,
        bits: int = 8,
    ) -> None:
        """Take size and rotation from the file's first frame.

        Args:
            first: the file's first frame.
            short_side: pixels of the short side after resizing; or height and width of a rectangle that the upright
                frame then covers.
            channels: 1 (grey) or 3 (RGB).
            damage: frames that cannot be converted are added to it.
            bits: of a pixel, 8, or 16 with one channel.

        Raises:
            ValueError: the first frame is too narrow or too large.
            av.FFmpegError: it cannot be converted.
        """
        check_size(first.width, first.height)
        shorter, longer = sorted((first.width, first.height))
        if shorter < 1 or longer > _WIDEST * shorter:
            raise ValueError(f"frames of {first.width} × {first.height} pixels are too narrow to be resized")
        self._turn = orientation_of(first)
        least = (short_side, short_side) if isinstance(short_side, int) else short_side
        rows, columns = least[::-1] if self._turn.transposed else least
        scale = max(rows / first.height, columns / first.width)
        self._height, self._width = max(rows, round(first.height * scale)), max(columns, round(first.width * scale))
        grey = "gray" if bits == 8 else "gray16le"
        self._format = grey if channels == 1 else _colours(self._width)
        self._type = np.dtype("<u1" if bits == 8 else "<u2")
        self._turns = self._turn != Orientation()
        upright = self._height, self._width
        self.shape = upright[::-1] if self._turn.transposed else upright
        self._damage = damage or Damage()
        self._last = self._converted(first)

    def __call__(self, frame: av.VideoFrame) -> Picture:
        """The frame's channels, as views of FFmpeg's memory; the previous frame's if it cannot be converted."""
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
        if self._format.startswith("gray"):
            return [self._pixels(planes[0])]
        packed = self._pixels(planes[0], 3)
        return [packed[:, number::3] for number in range(3)]

    def _pixels(self, plane: VideoPlane, each: int = 1) -> NDArray[Any]:
        shape, strides = (self._height, self._width * each), (plane.line_size, self._type.itemsize)  # rows are padded
        return np.ndarray(shape, self._type, cast(memoryview, plane), 0, strides)


def _context() -> VideoReformatter:
    """This thread's swscale context."""
    context: VideoReformatter | None = getattr(_own, "context", None)
    if context is None:
        context = _own.context = VideoReformatter()
    return context


def _colours(width: int) -> str:
    """The RGB pixel format to convert to: planar if possible, so that channels are copied by rows instead of by pixels.

    FFmpeg's fast conversion to planar RGB leaves row ends unwritten if the width is not a multiple of 16 pixels.
    """
    return "rgb24" if width % 16 else "gbrp"
