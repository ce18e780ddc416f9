"""A media file's metadata, read without decoding it."""

from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import av

from coordinator.video.decoding.frame_folder import kinds, matching, pictures
from coordinator.video.decoding.opening import (
    LARGEST,
    LIMITS,
    LOCAL,
    films_of,
    open_file,
    rate_of,
    reason,
    state_of,
    video_stream,
)

_TOLERANCE = 0.02  # by how much the number of frames that is stated may differ from that by duration and rate


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
        with av.open(file, mode="r", options={**LOCAL, **LIMITS}) as container:
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


def count_frames(path: Path) -> int:
    """The number of frames in a file, by its packets; nothing is decoded. Raises av.FFmpegError or OSError."""
    with open_file(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video_stream(container)))


def _metadata(container: "av.container.InputContainer") -> MediaInfo:
    stream = video_stream(container)
    if not stream.codec_context.width:
        raise ValueError(f"no frame can be decoded, or frames have more than {LARGEST} pixels")
    rate = rate_of(stream)
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
    films = films_of(container)
    if len(films) == 1:
        return ""
    codec = stream.codec_context
    return (
        f"of its {len(films)} video streams number {films.index(stream)} is played "
        f"({codec.name}, {codec.width} × {codec.height}, stream {stream.index} of the file)"
    )
