"""The pictures of one playing of a clip, as its decoder delivers them.

A whole chunk is decoded, then converted. Alternating at every frame would evict each step's code from the CPU caches
(measured: a fifth slower). It is converted in groups that fit into these caches, so that what is done with them next,
cropping and keeping, finds them there.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol

import av
from numpy.typing import NDArray

from common.errors import DataError
from coordinator.video.decoding.scaler import Picture, Scaler

_HELD = 1 << 23  # pixels of decoded frames held before conversion, so that large frames do not exhaust memory
_GROUP = 1 << 18  # pixels of frames converted at a time

Frames = Iterator[tuple[Scaler, av.VideoFrame]]
Pictures = Sequence[Picture] | NDArray[Any]  # an array: [n, channels, height, width]


class PictureSource(Protocol):
    """Successive pictures of one clip, all of one size."""

    @property
    def failure(self) -> str:
        """Why the clip ended early, or empty; the pictures before that are valid."""

    def take(self, most: int) -> Pictures:
        """The next pictures, 1 to `most`; none once the clip has ended."""


class JoinedPictures:
    """The pictures of several sources, one after another. A `PictureSource`."""

    def __init__(self, sources: Iterator[PictureSource]) -> None:
        """Each is begun once the one before it has ended."""
        self._sources, self._playing = sources, next(sources, None)

    @property
    def failure(self) -> str:
        """That of the source at which it ended."""
        return "" if self._playing is None else self._playing.failure

    def take(self, most: int) -> Pictures:
        """The next pictures."""
        while self._playing is not None:
            pictures = self._playing.take(most)
            if len(pictures) or self._playing.failure:
                return pictures
            self._playing = next(self._sources, None)
        return []


class DecodedPictures:
    """Decodes them. A `PictureSource`."""

    def __init__(self, frames: Frames, decode_lock: AbstractContextManager[None]) -> None:
        """`decode_lock` is held while decoding, but not while converting."""
        self.failure = ""
        self._frames, self._decode_lock, self._ended = frames, decode_lock, False
        self._waiting: deque[tuple[Scaler, av.VideoFrame]] = deque()  # to be converted

    def take(self, most: int) -> list[Picture]:
        """The next pictures, as views of FFmpeg's memory; fewer than `most` if they are large."""
        if not self._waiting and not self._ended:
            with self._decode_lock:
                self._decode(most)
        pictures: list[Picture] = []
        pixels = 0
        while self._waiting and len(pictures) < most and pixels < _GROUP:
            scaler, frame = self._waiting.popleft()
            pictures.append(scaler(frame))
            pixels += frame.width * frame.height
        return pictures

    def _decode(self, most: int) -> None:
        """Decode up to `most` frames, until the clip ends or decoding fails, or as many as may be held."""
        held = 0
        try:
            for scaler, frame in islice(self._frames, most):
                self._waiting.append((scaler, frame))
                held += frame.width * frame.height
                if held >= _HELD:
                    return
        except DataError as error:
            self.failure = str(error)
        self._ended = len(self._waiting) < most
