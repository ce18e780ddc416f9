"""Decode packets into frames as a video player does: skip damaged packets and show the rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import av
from av.codec.context import Flags

from coordinator.video.decoding.opening import reason


@dataclass
class Damage:
    """How many packets of a file, or pictures of a folder, could not be decoded, and the reason for the first.

    `unread`: whether one of them could not even be read.
    """

    count: int = 0
    first: str = ""
    unread: bool = False

    def add(self, why: str, unread: bool = False) -> None:
        """Count one more, with its reason."""
        self.count += 1
        self.first = self.first or why
        self.unread |= unread

    def forget(self) -> None:
        """Reset, before the file is decoded again."""
        self.count, self.first, self.unread = 0, "", False

    def __str__(self) -> str:
        return f"{self.count} of its packets or pictures cannot be decoded and are skipped, the first: {self.first}"


def decoded(
    container: "av.container.InputContainer", stream: av.VideoStream, damage: Damage
) -> Iterator[av.VideoFrame]:
    """Yield all frames that can be decoded, from the container's current position. `damage` counts skipped packets.

    Raises:
        av.FFmpegError: reading the container fails. The frames that the decoder still holds are yielded before.
    """
    frames = _all(container, stream, damage)
    if stream.codec_context.name == "hevc":
        yield from islice(frames, 1)
        # else FFmpeg drops all frames from a damaged one to the next key frame. Set after the first frame, so that
        # undecodable frames before it stay hidden
        stream.codec_context.flags |= Flags.output_corrupt
    yield from frames


def _all(container: "av.container.InputContainer", stream: av.VideoStream, damage: Damage) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield from container.decode(stream)
            return
        except EOFError:  # the decoder is drained
            return
        except IndexError:  # from PyAV, at the end of a file in which streams appeared midway
            yield from _held(stream, damage)
            return
        except av.FFmpegError as error:
            if error.filename == container.name:  # raised by reading, not by decoding
                yield from _held(stream, damage)
                raise
            if not _repeats(stream, error):
                damage.add(reason(error))  # the packet is consumed: continue after it


def _repeats(stream: av.VideoStream, error: av.FFmpegError) -> bool:
    """Whether it is an empty Theora packet, which repeats the previous frame and which FFmpeg does not accept."""
    return stream.codec_context.name == "theora" and isinstance(error, av.ArgumentError)


def _held(stream: av.VideoStream, damage: Damage) -> list[av.VideoFrame]:
    """Flush the decoder: the frames that it still holds when there is nothing more to read."""
    try:
        return stream.codec_context.decode(None)
    except EOFError:
        return []
    except av.FFmpegError as error:
        damage.add(reason(error))
        return []
