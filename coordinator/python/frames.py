"""Arrays of frames, as the user's program has them, resized as files are."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError
from coordinator.video.decoding.opening import reason
from coordinator.video.decoding.scaler import Scaler

_FORMATS = {(1, "uint8"): "gray", (3, "uint8"): "rgb24", (1, "uint16"): "gray16le"}  # by channels and type


def pixels(
    frames: NDArray[Any] | Tensor, short_side: int | tuple[int, int], channels: int, bits: int = 8
) -> NDArray[Any]:
    """Resized frames, channels first.

    Args:
        frames: as for `clip_of`.
        short_side: pixels of the result's short side, or a height and width that it covers.
        channels: of the result, 3 (RGB) or 1 (grey).
        bits: of a pixel of the result, 8, or 16 with one channel.

    Returns:
        uint8 or uint16 [n, channels, height, width].

    Raises:
        DataError: they are no such frames, or too narrow.
    """
    found = clip_of(frames)
    least = (short_side, short_side) if isinstance(short_side, int) else short_side
    fits = max(a / b for a, b in zip(least, found.shape[1:3], strict=True)) == 1
    if fits and (found.shape[3], found.itemsize * 8) == (channels, bits):
        return found.transpose(0, 3, 1, 2)
    return np.array([_resized(frame, short_side, channels, bits) for frame in found])


def clip_of(frames: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Frames as a clip, uint8 or uint16 [n, height, width, channels].

    Args:
        frames: uint8 [n, height, width, 3 or 1], or one frame without n; if grey, also [height, width], and uint16.

    Raises:
        DataError: they are no such frames.
    """
    given = np.asarray(frames.detach().cpu() if isinstance(frames, Tensor) else frames)
    found = given[..., None] if given.ndim == 2 else given
    found = found[None] if found.ndim == 3 else found
    if found.ndim != 4 or (found.shape[3], found.dtype.name) not in _FORMATS or 0 in found.shape:
        raise DataError(
            f"frames of shape {list(given.shape)} and type {given.dtype}: pass uint8 pixels, "
            "[n, height, width, channels] with 3 channels (RGB) or 1 (grey), or uint16 pixels with 1"
            f"{_remedy(given, isinstance(frames, Tensor))}"
        )
    return found


def _remedy(given: NDArray[Any], is_tensor: bool) -> str:
    """How to make frames of an array of another form that is common; empty if it is none."""
    if given.ndim == 0:
        return ""
    if given.dtype.kind in "USO":
        return ". Of several files, pass one at a time: [model.predict(file) for file in files]"
    shape, steps, cast = given.shape, list[str](), "to(torch.uint8)" if is_tensor else 'astype("uint8")'
    if len(shape) > 2 and shape[-3] in (1, 3) and shape[-1] not in (1, 3):
        steps.append(f"{'torch.movedim' if is_tensor else 'np.moveaxis'}(frames, {len(shape) - 3}, -1)")
    elif len(shape) == 3 and shape[-1] not in (1, 3):
        steps.append("frames[..., None]")
    if given.dtype.kind == "f":
        steps.append(f"(frames * 255).{cast} if they are from 0 to 1")
    elif given.dtype.name not in ("uint8", "uint16"):
        steps.append(f"frames.{cast}")
    return f". Here: {', and '.join(steps)}" if steps else ""


def _resized(frame: NDArray[Any], short_side: int | tuple[int, int], channels: int, bits: int) -> NDArray[Any]:
    grey = frame.shape[2] == 1
    plane = np.ascontiguousarray(frame[..., 0] if grey else frame)
    try:
        picture = av.VideoFrame.from_ndarray(plane, _FORMATS[frame.shape[2], frame.dtype.name])
        return np.array(Scaler(picture, short_side, channels, bits=bits)(picture))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"a frame cannot be resized: {reason(error)}") from error
