"""Decoding: a video file becomes chunks of uint8 frames, resized as they are decoded (PyAV, its own FFmpeg)."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError

CHUNK = 16  # frames decoded at a time
_WIDEST = 16  # a wider frame would be blown up to a strip that fills the memory


def read(path: Path, stride: int, short_side: int, channels: int) -> Iterator[Tensor]:
    """Chunks [n ≤ CHUNK, channels, height, width] of uint8, every `stride`-th frame, the short side resized.

    Raises:
        DataError: the file cannot be decoded, from the start or from some frame on; what came before was good.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # decoding is parallel over slots
            frames = islice(container.decode(stream), 0, None, stride)
            while chunk := [_pixels(frame, short_side, channels) for frame in islice(frames, CHUNK)]:
                yield torch.from_numpy(np.stack(chunk))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _pixels(frame: av.VideoFrame, short_side: int, channels: int) -> NDArray[np.uint8]:
    """[channels, height, width] uint8."""
    shorter, longer = sorted((frame.width, frame.height))
    if shorter < 1 or longer > _WIDEST * shorter:
        raise ValueError(f"frames of {frame.width} × {frame.height} pixels are too narrow to be resized")
    scale = short_side / shorter
    width, height = (max(short_side, round(side * scale)) for side in (frame.width, frame.height))
    kind = "gray" if channels == 1 else "rgb24"
    resized = frame.reformat(width=width, height=height, format=kind, interpolation="AREA")
    pixels = resized.to_ndarray().astype(np.uint8, copy=False)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
