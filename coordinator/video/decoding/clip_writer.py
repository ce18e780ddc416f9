"""Write the pixels of one playing of a clip, cropped, to the memory from which it is played.

A whole chunk is decoded, then converted, then written. Alternating at every frame would evict each step's code from the
CPU caches (measured: a fifth slower).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import av
import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from coordinator.video.decoding.augment import Augment
from coordinator.video.decoding.scaler import Scaler

_HELD = 1 << 23  # pixels of decoded frames held before conversion, so that large frames do not exhaust memory

Frames = Iterator[tuple[Scaler, av.VideoFrame]]


class ClipWriter:
    """Writes the frames of one playing, all with the same augmentation.

    Attributes:
        failure: why decoding failed, or empty; the frames before that are written.
    """

    def __init__(
        self,
        draw_augmentation: Callable[[Sequence[int]], Augment],
        decode_lock: AbstractContextManager[None],
    ) -> None:
        """`draw_augmentation`: for frames of shape (height, width); `decode_lock` is held while decoding."""
        self.failure = ""
        self._choose, self._decode_lock = draw_augmentation, decode_lock
        self._ended = False
        self._augment: Augment | None = None

    def write(self, frames: Frames, out: NDArray[np.uint8]) -> int:
        """Write the next frames into `out`, uint8 [n, channels, size, size].

        Returns:
            How many were written: n, or fewer at the clip's end.
        """
        written = 0
        while written < len(out) and not self._ended:
            with self._decode_lock:
                decoded = self._decoded(frames, len(out) - written)
            if decoded:
                augment = self._augment = self._augment or self._choose(decoded[0][0].shape)
                augment.write([scaler(frame) for scaler, frame in decoded], out[written:])
            written += len(decoded)
        return written

    def _decoded(self, frames: Frames, most: int) -> list[tuple[Scaler, av.VideoFrame]]:
        """Decode up to `most` frames, until the clip ends or decoding fails, or as many as may be held."""
        decoded: list[tuple[Scaler, av.VideoFrame]] = []
        held = 0
        try:
            for scaler, frame in islice(frames, most):
                decoded.append((scaler, frame))
                held += frame.width * frame.height
                if held >= _HELD:
                    return decoded
        except DataError as error:
            self.failure = str(error)
        self._ended = len(decoded) < most
        return decoded
