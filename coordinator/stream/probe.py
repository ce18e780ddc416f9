"""What a file says of itself, without decoding it, and what is refused before any of it is decoded."""

from dataclasses import dataclass
from pathlib import Path
from re import split as split_by

import av

LARGEST = 1 << 26  # pixels of a frame; a larger one is a broken or hostile file
_BOUND = {"max_pixels": str(LARGEST)}
PICTURES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Probe:
    """Frames and seconds as the container states or implies them, the frames' pixels, and frames a second."""

    frames: int
    seconds: float
    width: int
    height: int
    rate: float


def probe(path: Path) -> Probe | str:
    """What a video file says, or the reason why it cannot be played."""
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        with opened(str(path)) as container:
            return _said(container)
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason(error)


def probe_frames(folder: Path, pattern: str, listed: int) -> Probe | str:
    """The same for a folder of frames, of which a list says that there are `listed`."""
    try:
        files = pictures(folder, pattern)
    except (OSError, ValueError) as error:
        return reason(error)
    if len(files) < listed:
        return f"it holds {len(files)} frames that match {pattern!r}, but the list says {listed}"
    first = probe(files[0])
    return first if isinstance(first, str) else Probe(listed, 0.0, first.width, first.height, 0.0)


def pictures(folder: Path, pattern: str = "*") -> list[Path]:
    """The frames of a folder in the order of their numbers: 2 comes before 10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.match(pattern)]
    return sorted(
        found, key=lambda path: [(int(part), "") if part.isdecimal() else (-1, part) for part in _parts(path)]
    )


def opened(
    name: str,
    kind: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
) -> "av.container.InputContainer":
    """Open a file or a source. FFmpeg decodes a little of it to know what it is; not even then too large a frame."""
    return av.open(name, format=kind, options={**(options or {}), **_BOUND}, timeout=timeout)


def video_stream(container: "av.container.InputContainer") -> av.VideoStream:
    """The video, if its frames are of sensible size. Raises ValueError."""
    if not container.streams.video:
        raise ValueError("it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError("its codec is unknown")
    check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = dict(_BOUND)  # frames may grow in the middle of a stream
    stream.codec_context.thread_count = 1  # decoding is parallel over slots
    return stream


def check_size(width: int, height: int) -> None:
    """Raises ValueError where a frame is too large to be decoded."""
    if width * height > LARGEST:
        raise ValueError(f"frames of {width} × {height} pixels are refused: at most {LARGEST} pixels are decoded")


def reason(error: Exception) -> str:
    """An error of FFmpeg or the file system in a few words."""
    return str(getattr(error, "strerror", None) or error)


def _said(container: "av.container.InputContainer") -> Probe:
    stream = video_stream(container)
    if not stream.codec_context.width:
        raise ValueError(f"no frame can be decoded, or frames have more than {LARGEST} pixels, which are refused")
    rate = float(stream.average_rate or 25)
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    seconds = seconds or (container.duration or 0) / av.time_base
    frames = stream.frames or max(1, round(seconds * rate))
    return Probe(frames, seconds or frames / rate, stream.codec_context.width, stream.codec_context.height, rate)


def _parts(path: Path) -> list[str]:
    return split_by(r"(\d+)", path.name)
