"""Memory shared by the coordinator and its decoders: a double buffer per slot, each half holding one chunk of frames.

    slot 0, half 0 | slot 0, half 1 | slot 1, half 0 | …          one frame per row, [channels, height, width]

While one half is played the other is filled. Chunks are long, because a decoder that switches clips finds the CPU
caches cold, but bounded, so that many slots of large frames do not exhaust memory. The last row stays black, for slots
that have run out.
"""

import mmap
import os
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from common.shared_memory.memfd import memory_file

HALVES = 2
_MOST, _LEAST = 64, 4  # maximum and minimum frames of a chunk
_MEMORY = 1 << 27  # bytes that the ring may take up, unless even chunks of `_LEAST` frames need more


class SharedRing:
    """The frames of all slots.

    Attributes:
        pixels: uint8, or uint16 if data.bits = 16, [slots · HALVES · chunk + 1, channels, height, width].
        chunk: maximum number of frames in a chunk.
        file: file descriptor by which another process maps the memory.
        black: index of the row that stays black.
    """

    def __init__(self, data: Data, file: int | None = None) -> None:
        """Map new memory, or that of descriptor `file`. Pages take up memory only once they are written.

        Raises:
            DataError: the memory cannot be allocated.
        """
        self.chunk = chunk_of(data)
        shape = data.slots * HALVES * self.chunk + 1, data.channels, *data.shape
        size = prod(shape) * data.bits // 8
        try:
            self.file = memory_file("sideways-frames", size) if file is None else file
            memory = mmap.mmap(self.file, size)
        except OSError as error:
            raise DataError(
                f"{size / 2**20:.0f} MiB of memory for decoded frames cannot be allocated: {error.strerror}. "
                f"Lower data.slots or data.size, or raise the limits (ulimit -f, -v)"
            ) from error
        self.pixels: NDArray[Any] = np.frombuffer(memory, data.pixel_type).reshape(shape)
        self.black = len(self.pixels) - 1

    def half(self, slot: int, half: int) -> int:
        """Index of the first row of a slot's half (0 or 1)."""
        return (slot * HALVES + half) * self.chunk

    def room(self, slot: int, half: int) -> NDArray[Any]:
        """The rows of a slot's half: a view [chunk, channels, height, width]."""
        return self.pixels[self.half(slot, half) : self.half(slot, half) + self.chunk]

    def close(self) -> None:
        """Close the descriptor; the memory is freed with its last mapping."""
        os.close(self.file)


def chunk_of(data: Data) -> int:
    """The maximum number of frames in a chunk: 4 to 64, so that the ring stays within 128 MiB where it can."""
    frame = data.channels * prod(data.shape) * data.bits // 8
    return max(_LEAST, min(_MOST, _MEMORY // (data.slots * HALVES * frame)))
