"""Memory that the coordinator and its decoders share: two halves a slot, each a chunk of frames as they are played.

    slot 0, half 0 | slot 0, half 1 | slot 1, half 0 | …          one row a frame, [channels, size, size] of uint8

While one half is played the other is filled. A chunk is long, as a decoder that turns to another clip finds its caches
cold, but not so long that many slots of large frames fill the memory. Last comes a row that stays black, for slots that
have run out.
"""

import mmap
import os
from math import prod

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from common.shared_memory.memfd import memory_file

HALVES = 2
_MOST, _LEAST = 64, 4  # frames of a chunk
_MEMORY = 1 << 27  # bytes that the ring may take up, while chunks have more than the least


class SharedRing:
    """The frames of all slots.

    Attributes:
        pixels: uint8 [slots · HALVES · chunk + 1, channels, size, size].
        chunk: frames of a chunk, at most.
        file: the descriptor that another process maps it by.
    """

    def __init__(self, data: Data, file: int | None = None) -> None:
        """New memory, or that of a descriptor. Only what is written to takes up memory. Raises DataError."""
        self.chunk = chunk_of(data)
        shape = data.slots * HALVES * self.chunk + 1, data.channels, data.size, data.size
        try:
            self.file = memory_file("sideways-frames", prod(shape)) if file is None else file
            memory = mmap.mmap(self.file, prod(shape))
        except OSError as error:
            raise DataError(
                f"{prod(shape) / 2**20:.0f} MiB of memory for decoded frames cannot be had: {error.strerror}. "
                f"Lower data.slots or data.size, or raise the limits (ulimit -f, -v)"
            ) from error
        self.pixels: NDArray[np.uint8] = np.frombuffer(memory, np.uint8).reshape(shape)
        self.black = len(self.pixels) - 1

    def half(self, slot: int, half: int) -> int:
        """The row where a half of a slot begins."""
        return (slot * HALVES + half) * self.chunk

    def room(self, slot: int, half: int) -> NDArray[np.uint8]:
        """A half of a slot: [chunk, channels, size, size]."""
        return self.pixels[self.half(slot, half) : self.half(slot, half) + self.chunk]

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with its last user."""
        os.close(self.file)


def chunk_of(data: Data) -> int:
    """Frames of a chunk, at most."""
    frame = data.channels * data.size**2
    return max(_LEAST, min(_MOST, _MEMORY // (data.slots * HALVES * frame)))
