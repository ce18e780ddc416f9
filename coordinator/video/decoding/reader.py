"""Decode a video file into chunks of frames, uint8 or uint16, resized as they are decoded (PyAV, its own FFmpeg)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from coordinator.video.decoding.frame_folder import pictures
from coordinator.video.decoding.opening import open_file, rate_of, reason, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.pictures import Frames
from coordinator.video.decoding.resample import CLOSE, FrameClock, longest_gap, resample
from coordinator.video.decoding.scaler import Picture, Scaler
from coordinator.video.decoding.seek import Alive, frame_at, frame_index, jump

CHUNK = 16  # frames that `read` yields at a time
_FAR = 256  # frames; skipping more is worth indexing the file


def read(
    path: Path, stride: int, short_side: int | tuple[int, int], channels: int, **options: Any
) -> Iterator[NDArray[Any]]:
    """Yield the frames of `decode` as pixels, chunks [n ≤ CHUNK, channels, height, width]. Raises DataError."""
    return pixels(decode(path, stride, short_side, channels, **options))


def pixels(frames: Frames) -> Iterator[NDArray[Any]]:
    """Yield decoded frames as pixels, likewise."""
    chunk: list[Picture] = []
    try:
        for scaler, frame in frames:
            chunk.append(scaler(frame))
            if len(chunk) == CHUNK:
                yield np.array(chunk)
                chunk = []
    except DataError:
        if chunk:
            yield np.array(chunk)
        raise
    if chunk:
        yield np.array(chunk)


def decode(
    path: Path,
    stride: int,
    short_side: int | tuple[int, int],
    channels: int,
    *,
    fps: float | None = None,
    start: int = 0,
    skip: int = 0,
    limit: int | None = None,
    frame_files: Sequence[Path] = (),
    damage: Damage | None = None,
    bits: int = 8,
    alive: Alive = lambda: None,
    name: str = "",
) -> Frames:
    """Yield each decoded frame, with the scaler that converts it to upright, resized pixels.

    All frames of a file are resized to the size of its first one, even if their size changes midway.

    Args:
        stride: read every `stride`-th frame.
        short_side: pixels of the resized frames' short side, or a height and width that they cover.
        channels: 1 (grey) or 3 (RGB).
        fps: instead of `stride`, frames per second by the file's timestamps: the newest frame at each instant.
        start: frames of the file to leave out at the beginning; with `fps` instants.
        skip: frames, at that stride or rate, to leave out after that. They are decoded but not resized; if there
            are many, they are jumped over (seek.py).
        limit: maximum number of frames to read.
        frame_files: the picture files of the frames, if `path` is a folder of frames.
        damage: packets or pictures that cannot be decoded are added to it; the other frames are still read.
        bits: of a pixel, 8 (uint8), or 16 (uint16) with one channel.
        alive: called from time to time while many frames are skipped.
        name: for errors; default: the path.

    Raises:
        DataError: nothing of the file can be decoded, or decoding fails later; the frames yielded before are valid. It
            is raised from an OSError if the file cannot be read.
    """
    damage = damage or Damage()
    before = start + (skip if fps else skip * stride)
    try:
        with ExitStack() as stack:
            if frame_files:
                first, frames = _from_pictures(frame_files, stride, before, damage)
            else:
                first, frames = _from_video(path, stride, fps, before, stack, damage, alive)
            if first is None:
                if damage.count:
                    raise OSError(damage.first) if damage.unread else ValueError(damage.first)
                return
            scaler = Scaler(first, short_side, channels, damage, bits)
            for frame in islice(frames, limit):
                yield scaler, frame
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{name or path}: {reason(error)}") from error


def frame_files(path: Path, pattern: str, listed: int | None) -> list[Path]:
    """The first `listed` pictures of a folder of frames; none for a video (`listed` is None). Raises DataError."""
    try:
        return [] if listed is None else pictures(path, pattern)[:listed]
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from error


_Frames = tuple[av.VideoFrame | None, Iterator[av.VideoFrame]]  # the file's first frame, for its size; those to read


def _from_video(
    path: Path, stride: int, fps: float | None, before: int, stack: ExitStack, damage: Damage, alive: Alive
) -> _Frames:
    container, stream = _open(path, stack)
    frames = decoded(container, stream, damage)
    first = next(frames, None)
    if first is None:
        return None, iter(())
    frames, number, landed = chain([first], frames), 0, None
    about = round(before * rate_of(stream) / fps) if fps else before
    if about > _FAR:
        jumped = jump(path, container, stream, _finder(container, stream, fps, before), about, damage, alive)
        if jumped is None:
            container, stream = _open(path, stack)  # the failed jump may have moved the other
            damage.forget()
            frames = frame_index(path).note(decoded(container, stream, damage), 0, alive)
        else:
            number, landed, frames = jumped
    if fps is None:
        return first, islice(frames, before - number, None, stride)
    if landed is None:
        return first, islice(resample(frames, fps, FrameClock(container, stream)), before, None)
    assert first.pts is not None  # else there was no jump
    assert stream.time_base is not None
    begun = ceil((float((landed - first.pts) * stream.time_base) - CLOSE) * fps)  # the instant at which it is shown
    return first, islice(resample(frames, fps, FrameClock(container, stream, first), begun), before - begun, None)


def _finder(
    container: "av.container.InputContainer", stream: av.VideoStream, fps: float | None, before: int
) -> Callable[[Sequence[int]], int | None]:
    """A function from timestamps of the first frames to the number of the frame after the skipped ones."""
    base, longest = stream.time_base, longest_gap(container)
    if fps is None:
        return lambda times: before
    seconds = before / fps
    return lambda times: None if base is None else frame_at(times, seconds, base, longest)


def _open(path: Path, stack: ExitStack) -> "tuple[av.container.InputContainer, av.VideoStream]":
    container = stack.enter_context(open_file(path))
    return container, video_stream(container)


def _from_pictures(files: Sequence[Path], stride: int, before: int, damage: Damage) -> _Frames:
    """Replaces a picture that cannot be decoded by the nearest good one before it, else by the first good one."""
    first = next((frame for file in files if (frame := _picture(file, damage)) is not None), None)
    numbers = range(before, len(files), stride)
    return first, (_picture(files[number], damage) or _before(files, number) or first for number in numbers if first)


def _before(files: Sequence[Path], number: int) -> av.VideoFrame | None:
    """The nearest picture before `number` that can be decoded."""
    return next((frame for file in files[:number][::-1] if (frame := _picture(file, Damage())) is not None), None)


def _picture(file: Path, damage: Damage) -> av.VideoFrame | None:
    found = Damage()
    try:
        with open_file(file) as container:
            frame = next(decoded(container, video_stream(container), found), None)
        if frame is None:
            raise ValueError(found.first or "it contains no picture")
    except (av.FFmpegError, OSError, ValueError) as error:
        damage.add(f"{file.name}: {reason(error)}", isinstance(error, OSError))
        return None
    return frame
