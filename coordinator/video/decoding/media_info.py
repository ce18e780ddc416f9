"""A media file's metadata, read without decoding it, and the checks before any of it is decoded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from re import split as split_by

import av
from av.stream import Disposition

_PART = "subfile"  # a protocol of FFmpeg
LARGEST = 1 << 26  # pixels of a frame; a larger one is a broken or hostile file
_LIMITS = {"max_pixels": str(LARGEST)}
_LOCAL = {"protocol_whitelist": f"file,crypto,data,{_PART}"}  # a file may be a playlist, or name addresses to listen at
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_TOLERANCE = 0.02  # by how much the number of frames that is stated may differ from that by duration and rate
_NOT_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class MediaInfo:
    """Metadata of a file as its container states or implies it; nothing is counted by decoding.

    Attributes:
        frames: number of frames, by packets if the container states none or contradicts itself.
        seconds: duration; 0 for a folder of frames.
        width, height: of the frames, in pixels.
        rate: frames per second; 0 for a folder of frames.
        deep: whether pixels are grey and have more than 8 bits.
        note: what the user should know: which of several video streams is played, or which pictures.
        variable: whether frames may be shown for different times; `rate` is then their mean.
    """

    frames: int
    seconds: float
    width: int
    height: int
    rate: float
    note: str = ""
    deep: bool = False
    variable: bool = False


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
    return open_media(str(path) if is_part(path) else os.path.abspath(path), options=_LOCAL)


def read_media_info(path: Path) -> MediaInfo | str:
    """Metadata of a video file, or the reason why it cannot be played."""
    try:
        if state_of(path).st_size == 0:
            return "the file is empty"
        with open_file(path) as container:
            return _metadata(container)
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason(error)


def read_stream_info(file: RawIOBase) -> MediaInfo | str:
    """The same of an open file."""
    try:
        with av.open(file, mode="r", options={**_LOCAL, **_LIMITS}) as container:
            return _metadata(container)
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason(error)


def read_frame_folder_info(folder: Path, pattern: str, listed: int) -> MediaInfo | str:
    """The same for a folder of frames that should hold `listed` pictures."""
    try:
        files = pictures(folder, pattern)
    except (OSError, ValueError) as error:
        return reason(error)
    if len(files) < listed:
        return f"it contains {len(files)} {matching(pattern)}, but the list says {listed}"
    if len(files) > listed and (several := kinds(files)):
        return f"it contains {len(files)} {matching(pattern)}, but the list says {listed}: {several}"
    first = next((found for file in files[:listed] if isinstance(found := read_media_info(file), MediaInfo)), None)
    if first is None:
        return f"{files[0].name}: {read_media_info(files[0])}"
    more = f"it contains {len(files)} {matching(pattern)}: the first {listed}, as listed, are played (data.frame_files)"
    return MediaInfo(listed, 0.0, first.width, first.height, 0.0, more if len(files) > listed else "", first.deep)


def pictures(folder: Path, pattern: str = "*") -> list[Path]:
    """The pictures of a folder that match `pattern`, in numeric order: 2 comes before 10. Raises OSError."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURES and path.match(pattern) and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(
        found, key=lambda path: [(int(part), "") if part.isdecimal() else (-1, part) for part in _parts(path)]
    )


def matching(pattern: str) -> str:
    """Describe which files of a folder are frames, for a message."""
    return f"frames that match {pattern!r} (with a suffix of {', '.join(PICTURES)})"


def kinds(files: Sequence[Path], setting: str = "data.frame_files") -> str:
    """Advice for when pictures' names begin differently, as in a folder with optical flow; else an empty string."""
    beginnings = sorted({_parts(path)[0] for path in files})
    if len(beginnings) < 2:
        return ""
    shown = ", ".join(f'"{beginning}*"' for beginning in beginnings[:5])
    return f"{'more than 5' if len(beginnings) > 5 else len(beginnings)} kinds of names, {shown}: set {setting} to one"


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
    return av.open(name, format=kind, options={**(options or {}), **_LIMITS}, timeout=timeout)


def count_frames(path: Path) -> int:
    """The number of frames in a file, by its packets; nothing is decoded. Raises av.FFmpegError or OSError."""
    with open_file(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video_stream(container)))


def video_stream(container: "av.container.InputContainer") -> av.VideoStream:
    """The video stream to play: the best one that is not a cover picture or thumbnail.

    Raises:
        ValueError: there is none, its codec is unknown, or its frames have more than `LARGEST` pixels.
    """
    films = _films(container)
    if not films:
        raise ValueError("it has no video stream" + (", only a cover picture" if container.streams.video else ""))
    best = container.streams.best("video")
    stream = next((film for film in films if best is not None and film.index == best.index), films[0])
    if stream.codec_context is None:
        raise ValueError("its codec is unknown")
    check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = dict(_LIMITS)  # frames may grow in the middle of a stream
    stream.codec_context.thread_count = 1  # decoding is parallel over slots
    return stream


def _films(container: "av.container.InputContainer") -> list[av.VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & _NOT_VIDEO]


def check_size(width: int, height: int) -> None:
    """Check a frame's size in pixels. Raises ValueError if it is too large to be decoded."""
    if width * height > LARGEST:
        raise ValueError(f"frames of {width} × {height} pixels are too large: at most {LARGEST} pixels are decoded")


def reason(error: Exception) -> str:
    """A short description of an error of FFmpeg or the file system."""
    return str(getattr(error, "strerror", None) or error)


def _metadata(container: "av.container.InputContainer") -> MediaInfo:
    stream = video_stream(container)
    if not stream.codec_context.width:
        raise ValueError(f"no frame can be decoded, or frames have more than {LARGEST} pixels")
    rate = float(stream.average_rate or 25)
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    seconds = seconds or (container.duration or 0) / av.time_base
    implied = round(seconds * rate)
    frames = stream.frames or implied
    if not frames or abs(frames - implied) > max(2, _TOLERANCE * implied):
        frames, seconds, rate = _counted(container, stream, rate)
    size = stream.codec_context.width, stream.codec_context.height
    # the lowest rate at which all timestamps can be shown; Matroska states any rate, and a time for each frame
    variable = stream.average_rate != stream.base_rate or "matroska" in container.format.name
    seconds = seconds or frames / rate
    return MediaInfo(frames, seconds, *size, rate, _choice(container, stream), _is_deep(stream), variable)


def _counted(container: "av.container.InputContainer", stream: av.VideoStream, rate: float) -> tuple[int, float, float]:
    """Frames, seconds and rate of a file that states no length, or contradicts itself: it is read to its end.

    A browser's recording states none. A fragmented MP4 states the frames of its first fragment; one that was trimmed by
    an edit list, also those that it hides.
    """
    times = [packet.pts for packet in container.demux(stream) if packet.size]
    count, known = max(1, len(times)), [time for time in times if time is not None]
    if len(known) < len(times) or len(set(known)) < 2 or stream.time_base is None:
        return count, count / rate, rate
    shown = float((max(known) - min(known)) * stream.time_base)  # until the last frame begins
    return count, shown * count / (count - 1), (count - 1) / shown


def _is_deep(stream: av.VideoStream) -> bool:
    form = stream.codec_context.format
    return form is not None and len(form.components) == 1 and form.components[0].bits > 8


def _choice(container: "av.container.InputContainer", stream: av.VideoStream) -> str:
    films = _films(container)
    if len(films) == 1:
        return ""
    codec = stream.codec_context
    return (
        f"of its {len(films)} video streams number {films.index(stream)} is played "
        f"({codec.name}, {codec.width} × {codec.height}, stream {stream.index} of the file)"
    )


def _parts(path: Path) -> list[str]:
    return split_by(r"(\d+)", path.name)
