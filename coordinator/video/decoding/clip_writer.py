"""One playing of a clip becomes pixels, cut and written to where it will be played from.

A chunk is decoded, then converted, then written: going from one to the next at every frame, each would find the
processor's caches full of the others' code (measured: a fifth slower).
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

_HELD = 1 << 23  # pixels of decoded frames, before they are converted; large frames would fill the memory

Frames = Iterator[tuple[Scaler, av.VideoFrame]]


class ClipWriter:
    """Writes the frames of one playing, all cut alike.

    Attributes:
        failure: why the clip broke off; what came before is written.
    """

    def __init__(
        self,
        choose: Callable[[Sequence[int]], Augment],
        baton: AbstractContextManager[None],
    ) -> None:
        """`choose` draws the cut for frames of a height and width; `baton` is held while frames are decoded."""
        self.failure = ""
        self._choose, self._baton = choose, baton
        self._over = False
        self._augment: Augment | None = None

    def write(self, frames: Frames, out: NDArray[np.uint8]) -> int:
        """Fill [n, channels, size, size] with the next frames. Returns how many there were."""
        written = 0
        while written < len(out) and not self._over:
            with self._baton:
                decoded = self._decoded(frames, len(out) - written)
            if decoded:
                augment = self._augment = self._augment or self._choose(decoded[0][0].shape)
                augment.write([scaler(frame) for scaler, frame in decoded], out[written:])
            written += len(decoded)
        return written

    def _decoded(self, frames: Frames, most: int) -> list[tuple[Scaler, av.VideoFrame]]:
        """The next frames, up to where the clip breaks off, or as many as may be held."""
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
        self._over = len(decoded) < most
        return decoded
