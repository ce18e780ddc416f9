"""Frames that somebody else has decoded: an array, a sequence or an iterable of uint8 pictures, as FFmpeg's frames.

So they are resized and cropped by the same code as those of files.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

import av
import numpy as np

from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.decoding.opening import check_size
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.pictures import Frames
from coordinator.video.decoding.scaler import Scaler

NO_TIMES = "its frames have no timestamps: use data.stride instead of data.fps"
_CHANNELS = (1, 3)
_FORMATS = {("uint8", False): "gray", ("uint8", True): "rgb24", ("uint16", False): "gray16le"}  # type, whether colour
_HEARTBEAT_FRAMES = 64


class NotFrames(ValueError):
    """What should be frames is something else."""


def read_array_info(clip: Any) -> MediaInfo:
    """The size and number of the frames. Counts them by iterating if the clip has no length. Raises NotFrames."""
    if not _is_sequence(clip):
        pictures = (_picture(value) for value in _iterable(clip))
        first = next(pictures, None)
        number = 0 if first is None else 1 + sum(1 for _ in pictures)
    else:
        number = len(clip)
        first = _picture(clip[0]) if number else None
    if first is None:
        raise NotFrames("it has no frames: leave it out of the dataset")
    check_size(first.width, first.height)
    return MediaInfo(number, 0.0, first.width, first.height, 0.0, deep=first.format.components[0].bits > 8)


def decode_array(
    clip: Any,
    stride: int,
    short_side: int | tuple[int, int],
    channels: int,
    skip: int,
    limit: int | None,
    damage: Damage,
    alive: Callable[[], None],
    bits: int = 8,
) -> Frames:
    """As `decode` does for files: every `stride`-th frame without the first `skip` of them, at most `limit`.

    Args:
        clip: uint8 frames [height, width], [height, width, channels] or [channels, height, width], with 1 or 3
            channels (grey, RGB), as an array, a sequence, or an iterable; numpy, torch or PIL. Grey ones may be uint16.

    Raises:
        NotFrames: something in it is no such frame.
    """
    first, chosen = _chosen(clip, skip * stride, stride, alive)
    if first is None:
        return
    scaler = Scaler(_picture(first), short_side, channels, damage, bits)
    for value in islice(chosen, limit):
        yield scaler, _picture(value)


def _chosen(clip: Any, start: int, stride: int, alive: Callable[[], None]) -> tuple[Any, Iterator[Any]]:
    """The first frame of all, for its size, and every `stride`-th from number `start` on."""
    if _is_sequence(clip):
        return clip[0] if len(clip) else None, (clip[number] for number in range(start, len(clip), stride))
    frames = iter(_iterable(clip))
    first = next(frames, None)
    everything = chain([] if first is None else [first], frames)
    return first, islice(_living(everything, alive), start, None, stride)


def _living(frames: Iterable[Any], alive: Callable[[], None]) -> Iterator[Any]:
    for number, frame in enumerate(frames, 1):
        if number % _HEARTBEAT_FRAMES == 0:
            alive()
        yield frame


def _is_sequence(clip: Any) -> bool:
    return hasattr(clip, "__len__") and hasattr(clip, "__getitem__")


def _iterable(clip: Any) -> Iterable[Any]:
    if not hasattr(clip, "__iter__"):
        raise NotFrames(
            f"it is a {type(clip).__name__}: a clip is a path, the bytes of a video file, or an array or iterable of "
            f"uint8 frames"
        )
    return clip


def _picture(value: Any) -> av.VideoFrame:
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS and pixels.shape[0] in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    kind = _FORMATS.get((pixels.dtype.name, colour))
    if kind is None or not (colour or pixels.ndim == 2) or not pixels.size:
        raise NotFrames(
            f"a frame of it is {pixels.dtype} {list(np.shape(value))}: make frames uint8 of [height, width], or "
            f"[height, width, 3] in RGB{', with values of 0 to 255' if pixels.dtype.kind == 'f' else ''}"
        )
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
