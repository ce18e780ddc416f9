"""Memory for frame batches, which decoders, the process that feeds the stages, and stage 0 can map."""

import mmap
import os
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.shared_memory.memfd import memory_file

IN_USE = 8  # batches that stage 0 was sent and has not released, at most


class FrameMemory:
    """A number of batches, one after another.

    Attributes:
        file: descriptor by which another process maps the memory.
        pixels: uint8 or uint16 [batches, rows, channels, height, width].
    """

    def __init__(self, shape: tuple[int, ...], pixel_type: str, file: int | None = None) -> None:
        """Map new memory, or that of descriptor `file`. Pages take up memory only once they are written.

        Raises:
            OSError, ValueError: it cannot be allocated.
        """
        size = prod(shape) * np.dtype(pixel_type).itemsize
        self.file = memory_file("sideways-frames", size) if file is None else file
        try:
            memory = mmap.mmap(self.file, size)
        except (OSError, ValueError):
            if file is None:
                os.close(self.file)
            raise
        self.pixels: NDArray[Any] = np.frombuffer(memory, pixel_type).reshape(shape)
        self._start = _address(self.pixels)

    def offset(self, frames: NDArray[Any]) -> int:
        """Where frames that are a view of `pixels` begin, in bytes."""
        return _address(frames) - self._start

    def close(self) -> None:
        """Close the descriptor, if it is open; the memory is freed with its last mapping."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
