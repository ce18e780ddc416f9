"""Arrays of frames, as the user's program has them, resized as files are."""

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError
from coordinator.video.decoding.media_info import reason
from coordinator.video.decoding.scaler import Scaler


def pixels(frames: NDArray[np.uint8] | Tensor, short_side: int | tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Resized frames, channels first.

    Args:
        frames: as for `clip_of`.
        short_side: pixels of the result's short side, or a height and width that it covers.
        channels: of the result, 3 (RGB) or 1 (grey).

    Returns:
        uint8 [n, channels, height, width].

    Raises:
        DataError: they are no such frames, or too narrow.
    """
    found = clip_of(frames)
    least = (short_side, short_side) if isinstance(short_side, int) else short_side
    if max(a / b for a, b in zip(least, found.shape[1:3], strict=True)) == 1 and found.shape[3] == channels:
        return found.transpose(0, 3, 1, 2)
    return np.array([_resized(frame, short_side, channels) for frame in found])


def clip_of(frames: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    """Frames as a clip, uint8 [n, height, width, channels].

    Args:
        frames: uint8 [n, height, width, 3 or 1], or one frame without n; if grey, also [height, width].

    Raises:
        DataError: they are no such frames.
    """
    found = np.asarray(frames)
    found = found[..., None] if found.ndim == 2 else found
    found = found[None] if found.ndim == 3 else found
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] not in (1, 3) or 0 in found.shape:
        raise DataError(
            f"frames of shape {list(np.shape(frames))} and type {found.dtype}: pass uint8 pixels, "
            "[n, height, width, channels] with 3 channels (RGB) or 1 (grey)"
        )
    return found


def _resized(frame: NDArray[np.uint8], short_side: int | tuple[int, int], channels: int) -> NDArray[np.uint8]:
    grey = frame.shape[2] == 1
    plane = np.ascontiguousarray(frame[..., 0] if grey else frame)
    try:
        picture = av.VideoFrame.from_ndarray(plane, "gray" if grey else "rgb24")
        return np.array(Scaler(picture, short_side, channels)(picture))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"a frame cannot be resized: {reason(error)}") from error
