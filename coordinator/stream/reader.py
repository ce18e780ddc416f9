"""Decoding: a video file becomes chunks of uint8 frames, resized as they are decoded (PyAV, its own FFmpeg)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from coordinator.stream.probe import opened, pictures, reason, video_stream
from coordinator.stream.scaler import Scaler
from coordinator.stream.seek import place
from coordinator.stream.timing import resample

CHUNK = 16  # frames handed on at a time
_FAR = 256  # frames of the file; skipping more is worth an index of it


def read(
    path: Path,
    stride: int,
    short_side: int,
    channels: int,
    *,
    fps: float | None = None,
    skip: int = 0,
    limit: int | None = None,
    frame_files: Sequence[Path] = (),
) -> Iterator[NDArray[np.uint8]]:
    """Chunks [n ≤ CHUNK, channels, height, width] of uint8: `decode`, as pixels. Raises DataError as it does."""
    decoded = decode(path, stride, short_side, channels, fps=fps, skip=skip, limit=limit, frame_files=frame_files)
    while chunk := [scaler(frame) for scaler, frame in islice(decoded, CHUNK)]:
        yield np.array(chunk)


def decode(
    path: Path,
    stride: int,
    short_side: int,
    channels: int,
    *,
    fps: float | None = None,
    skip: int = 0,
    limit: int | None = None,
    frame_files: Sequence[Path] = (),
) -> Iterator[tuple[Scaler, av.VideoFrame]]:
    """Each frame as it is, and what makes upright pixels of it, the short side resized.

    All frames get the size of the file's first one, whatever comes later in it.

    Args:
        stride: every how many-th frame is read.
        fps: or so many frames a second, by the file's timestamps: the newest frame at each instant.
        skip: frames, at that stride or rate, that are left out at the beginning; they are decoded but not resized, and
            where they are many and the file has an index of timestamps, they are jumped over.
        limit: frames to read at most.
        frame_files: the frames, each a file, where `path` is a folder of them.

    Raises:
        DataError: the file cannot be decoded, from the start or from some frame on; what came before was good.
    """
    try:
        with ExitStack() as stack:
            if frame_files:
                first, frames = _from_pictures(frame_files, stride, skip)
            else:
                first, frames = _from_video(path, stride, fps, skip, stack)
            if first is None:
                return
            scaler = Scaler(first, short_side, channels)
            scaler(first)  # tells of a format that cannot be converted
            for frame in islice(frames, limit):
                yield scaler, frame
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: {reason(error)}") from error


def frame_files(path: Path, pattern: str, listed: int | None) -> list[Path]:
    """The files of a folder of frames; none for a video. Raises DataError."""
    try:
        return [] if listed is None else pictures(path, pattern)[:listed]
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from error


_Frames = tuple[av.VideoFrame | None, Iterator[av.VideoFrame]]  # the file's first, for its size; those to be read


def _from_video(path: Path, stride: int, fps: float | None, skip: int, stack: ExitStack) -> _Frames:
    container, stream = _open(path, stack)
    decoded = container.decode(stream)
    first = next(decoded, None)
    if first is None:
        return None, iter(())
    everything = chain([first], decoded)
    if skip * stride > _FAR:
        jumped = place(container, first, path, stride, fps, skip)
        if jumped is not None:
            return first, jumped
        container, stream = _open(path, stack)  # the other one may have moved
        everything = chain(container.decode(stream))
    if fps:
        return first, islice(resample(everything, fps, stream.average_rate), skip, None)
    return first, islice(everything, skip * stride, None, stride)


def _open(path: Path, stack: ExitStack) -> "tuple[av.container.InputContainer, av.VideoStream]":
    container = stack.enter_context(opened(str(path)))
    return container, video_stream(container)


def _from_pictures(files: Sequence[Path], stride: int, skip: int) -> _Frames:
    return _picture(files[0]), (_picture(file) for file in files[skip * stride :: stride])


def _picture(file: Path) -> av.VideoFrame:
    with opened(str(file)) as container:
        frame = next(container.decode(video_stream(container)), None)
    if frame is None:
        raise ValueError(f"{file.name} holds no picture")
    return frame
