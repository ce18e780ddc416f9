"""A file's packets become frames as a player shows them: what is damaged is passed over, and the rest is shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import av
from av.codec.context import Flags

from coordinator.video.decoding.media_info import reason


@dataclass
class Damage:
    """How many packets of a file, or pictures of a folder, could not be decoded, and the reason for the first."""

    count: int = 0
    first: str = ""

    def add(self, why: str) -> None:
        """One more, and why."""
        self.count += 1
        self.first = self.first or why

    def forget(self) -> None:
        """Begin anew: the file is decoded once more."""
        self.count, self.first = 0, ""

    def __str__(self) -> str:
        return f"{self.count} of its packets or pictures cannot be decoded and are passed over, the first: {self.first}"


def decoded(
    container: "av.container.InputContainer", stream: av.VideoStream, damage: Damage
) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, from where the container stands.

    Raises:
        av.FFmpegError: the container itself breaks off. The frames that the decoder still held come before that.
    """
    frames = _all(container, stream, damage)
    if stream.codec_context.name == "hevc":
        yield from islice(frames, 1)
        # else nothing is shown from a damaged picture to the next key frame; what comes before the first stays hidden
        stream.codec_context.flags |= Flags.output_corrupt
    yield from frames


def _all(container: "av.container.InputContainer", stream: av.VideoStream, damage: Damage) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield from container.decode(stream)
            return
        except EOFError:  # the decoder has given all that it held
            return
        except IndexError:  # PyAV's own, at the end of a file in which streams have appeared on the way
            yield from _held(stream, damage)
            return
        except av.FFmpegError as error:
            if error.filename == container.name:  # said in reading, not in decoding
                yield from _held(stream, damage)
                raise
            if not _repeats(stream, error):
                damage.add(reason(error))  # the packet is gone: go on behind it


def _repeats(stream: av.VideoStream, error: av.FFmpegError) -> bool:
    """Theora's empty packets say that the frame before stays; FFmpeg takes none that is empty."""
    return stream.codec_context.name == "theora" and isinstance(error, av.ArgumentError)


def _held(stream: av.VideoStream, damage: Damage) -> list[av.VideoFrame]:
    """What the decoder still holds when there is no more to be read."""
    try:
        return stream.codec_context.decode(None)
    except EOFError:
        return []
    except av.FFmpegError as error:
        damage.add(reason(error))
        return []
