"""Memory shared by the coordinator, its decoders and, if it is on the same host, stage 0: batches of decoded frames.

    tick 0: slot 0, slot 1, … | tick 1: slot 0, slot 1, … | …          one frame per row, [channels, height, width]

A slot plays one frame a tick, so its k-th frame belongs into the batch of tick k, and a decoder writes it there: a
tick's batch needs no copying. After the last batch comes the first one again. A decoder writes a chunk of a slot's
frames at a time. Chunks are long, because a decoder that switches clips finds the CPU caches cold, but bounded, so that
many slots of large frames do not exhaust memory. Beside the batches in use there is room for two chunks of every slot:
one is played while the other is decoded.
"""

from math import ceil, prod
from typing import Any

from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from common.shared_memory.frame_memory import FrameMemory

_MOST, _LEAST = 64, 4  # maximum and minimum frames of a chunk
_MEMORY = 1 << 27  # bytes for batches that are not in use, unless even chunks of `_LEAST` frames need more


class SharedRing:
    """The frames of all slots.

    Attributes:
        memory: of the batches.
        pixels: its contents, uint8, or uint16 if data.bits = 16, [ticks, slots, channels, height, width].
        ticks: number of batches.
        chunk: maximum number of frames in a chunk; divides `ticks`.
    """

    def __init__(self, data: Data, in_use: int, file: int | None = None) -> None:
        """Map new memory, or that of descriptor `file`. Pages take up memory only once they are written.

        Args:
            in_use: number of batches that are still read when the next one is needed.

        Raises:
            DataError: the memory cannot be allocated.
        """
        self.chunk = chunk_of(data, in_use)
        self.ticks, self._in_use = _ticks(self.chunk, in_use), in_use
        shape = self.ticks, data.slots, data.channels, *data.shape
        try:
            self.memory = FrameMemory(shape, data.pixel_type, file)
        except (OSError, ValueError) as error:
            size = prod(shape) * data.bits // 8
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(
                f"{size / 2**20:.0f} MiB of memory for decoded frames cannot be allocated: {reason}. "
                f"Lower data.slots or data.size, or raise the limits (ulimit -f, -v)"
            ) from error
        self.pixels = self.memory.pixels

    @property
    def file(self) -> int:
        """File descriptor by which another process maps the memory."""
        return self.memory.file

    def decodable_until(self, tick: int) -> int:
        """Up to which tick, exclusive, frames may be decoded when that of `tick` is needed; moves by whole chunks."""
        return max(0, tick - self._in_use) // self.chunk * self.chunk + self.ticks

    def room(self, slot: int, tick: int, end: int) -> NDArray[Any]:
        """The rows for a chunk of a slot, from a tick on: a view [n ≤ chunk, channels, height, width]."""
        place = tick % self.ticks
        return self.pixels[place : min(place + self.chunk, place + end - tick), slot]

    def close(self) -> None:
        """Close the descriptor; the memory is freed with its last mapping."""
        self.memory.close()


def chunk_of(data: Data, in_use: int) -> int:
    """The maximum number of frames in a chunk: 4 to 64, so that batches not in use stay within 128 MiB if they can."""
    batch = data.slots * data.channels * prod(data.shape) * data.bits // 8
    fitting = (chunk for chunk in range(_MOST, _LEAST, -1) if (_ticks(chunk, in_use) - in_use) * batch <= _MEMORY)
    return next(fitting, _LEAST)


def _ticks(chunk: int, in_use: int) -> int:
    return chunk * (2 + ceil(in_use / chunk))
