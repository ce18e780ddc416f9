"""The pictures of one playing of a clip, as its decoder delivers them.

A whole chunk is decoded, then converted. Alternating at every frame would evict each step's code from the CPU caches
(measured: a fifth slower).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol

import av
from numpy.typing import NDArray

from common.errors import DataError
from coordinator.video.decoding.scaler import Picture, Scaler

_HELD = 1 << 23  # pixels of decoded frames held before conversion, so that large frames do not exhaust memory

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

    def take(self, most: int) -> list[Picture]:
        """The next pictures, as views of FFmpeg's memory; fewer than `most` if they are large."""
        if self._ended:
            return []
        with self._decode_lock:
            decoded = self._decoded(most)
        return [scaler(frame) for scaler, frame in decoded]

    def _decoded(self, most: int) -> list[tuple[Scaler, av.VideoFrame]]:
        """Decode up to `most` frames, until the clip ends or decoding fails, or as many as may be held."""
        decoded: list[tuple[Scaler, av.VideoFrame]] = []
        held = 0
        try:
            for scaler, frame in islice(self._frames, most):
                decoded.append((scaler, frame))
                held += frame.width * frame.height
                if held >= _HELD:
                    return decoded
        except DataError as error:
            self.failure = str(error)
        self._ended = len(decoded) < most
        return decoded
