"""Opening media files and live sources with FFmpeg, safely: no other protocols, no frames that exhaust memory."""

import os
from pathlib import Path

import av
from av.stream import Disposition

LARGEST = 1 << 26  # pixels of a frame; a larger one is a broken or hostile file
LIMITS = {"max_pixels": str(LARGEST)}
_PART = "subfile"  # a protocol of FFmpeg
LOCAL = {"protocol_whitelist": f"file,crypto,data,{_PART}"}  # a file may be a playlist, or name addresses to listen at
ASSUMED_RATE = 25.0  # frames per second of what states none
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


def part_of(file: Path, offset: int, size: int) -> Path:
    """The path by which FFmpeg, and so this package, reads `size` bytes of a file as a file of their own."""
    return Path(f"{_PART},,start,{offset},end,{offset + size},,:{file}")


def is_part(path: Path) -> bool:
    """Whether FFmpeg would read a part of another file."""
    return str(path).startswith(f"{_PART},,")


def state_of(path: Path) -> os.stat_result:
    """The state of a file, or of the file of which it is a part. Raises OSError."""
    return os.stat(str(path).partition(",,:")[2] if is_part(path) else path)


def open_file(path: Path) -> "av.container.InputContainer":
    """Open a file, or a part of one. Its name may look like an address, as 12:30.mp4 does. Raises av.FFmpegError."""
    return open_media(str(path) if is_part(path) else os.path.abspath(path), options=LOCAL)


def open_media(
    name: str,
    kind: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
) -> "av.container.InputContainer":
    """Open a file or live source. FFmpeg decodes a little to probe it; even then frames above `LARGEST` are refused.

    Args:
        name: path or address.
        kind: FFmpeg input format, such as "v4l2"; None to detect it.
        options: FFmpeg options.
        timeout: seconds to open the source, and to read from it.

    Raises:
        av.FFmpegError: it cannot be opened.
    """
    return av.open(name, format=kind, options={**(options or {}), **LIMITS}, timeout=timeout)


def video_stream(container: "av.container.InputContainer") -> av.VideoStream:
    """The video stream to play: the best one that is not a cover picture or thumbnail.

    Raises:
        ValueError: there is none, its codec is unknown, or its frames have more than `LARGEST` pixels.
    """
    films = films_of(container)
    if not films:
        raise ValueError("it has no video stream" + (", only a cover picture" if container.streams.video else ""))
    best = container.streams.best("video")
    stream = next((film for film in films if best is not None and film.index == best.index), films[0])
    if stream.codec_context is None:
        raise ValueError("its codec is unknown")
    check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = dict(LIMITS)  # frames may grow in the middle of a stream
    stream.codec_context.thread_count = 1  # decoding is parallel over slots
    return stream


def films_of(container: "av.container.InputContainer") -> list[av.VideoStream]:
    """The video streams that are not a cover picture or thumbnail."""
    return [stream for stream in container.streams.video if not stream.disposition & _NOT_VIDEO]


def rate_of(stream: av.VideoStream) -> float:
    """Frames per second, on average."""
    return float(stream.average_rate or ASSUMED_RATE)


def check_size(width: int, height: int) -> None:
    """Check a frame's size in pixels. Raises ValueError if it is too large to be decoded."""
    if width * height > LARGEST:
        raise ValueError(f"frames of {width} × {height} pixels are too large: at most {LARGEST} pixels are decoded")


def reason(error: Exception) -> str:
    """A short description of an error of FFmpeg or the file system."""
    return str(getattr(error, "strerror", None) or error)
