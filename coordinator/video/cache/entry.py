"""An entry of the cache: a header of one memory page, then the frames, [frames, channels, height, bytes of a row].

The header holds the key, the frames' shape and their checksum, and a checksum of its own, so a truncated or damaged
entry is not mistaken for a whole one. Reading maps the frames: a mapping stays valid when the entry is removed.
"""

import errno
import mmap
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_digest

from coordinator.video.decoding.pictures import Pictures

PAGE = mmap.PAGESIZE
_FIELDS = struct.Struct("<8s32s4QQ")  # magic, key, shape, checksum of the frames
_MAGIC, _SUM_BYTES = b"SWFRAMES", 8
_READ = 1 << 24  # bytes of frames verified at a time
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14: map many pages at once instead of faulting them in

Shape = tuple[int, int, int, int]


class Header(NamedTuple):
    """`shape` has no frames where the clip must not be kept."""

    key: bytes
    shape: Shape
    checksum: int

    @property
    def size(self) -> int:
        """Bytes of the frames."""
        return prod(self.shape)

    def packed(self) -> bytes:
        """As one page."""
        fields = _FIELDS.pack(_MAGIC, self.key, *self.shape, self.checksum)
        return (fields + xxh3_64_digest(fields)).ljust(PAGE, b"\0")


def read_header(file: int, base: int) -> Header | None:
    """The header at offset `base` of a file; None if there is none, or a damaged one."""
    data = os.pread(file, _FIELDS.size + _SUM_BYTES, base)
    fields, checksum = data[: _FIELDS.size], data[_FIELDS.size :]
    if len(checksum) != _SUM_BYTES or xxh3_64_digest(fields) != checksum:
        return None
    magic, key, *shape, frames_checksum = _FIELDS.unpack(fields)
    return Header(key, (shape[0], shape[1], shape[2], shape[3]), frames_checksum) if magic == _MAGIC else None


class StoredFrames:
    """The frames of an entry.

    Attributes:
        frames: read-only uint8 [frames, channels, height, bytes of a row].
    """

    def __init__(self, file: int, base: int, header: Header) -> None:
        """Map the entry at offset `base`. Raises OSError."""
        self._map = mmap.mmap(file, header.size, prot=mmap.PROT_READ, offset=base + PAGE)
        self.frames: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8).reshape(header.shape)
        self._checksum = header.checksum

    def is_intact(self, alive: Callable[[], None]) -> bool:
        """Whether the frames have their checksum. Reads all of them, and calls `alive` from time to time."""
        checksum, step = xxh3_64(), max(1, _READ // self.frames[0].nbytes)
        for first in range(0, len(self.frames), step):
            last = min(first + step, len(self.frames))
            self.load(first, last)
            checksum.update(self.frames[first:last].data)
            alive()
        return checksum.intdigest() == self._checksum

    def load(self, first: int, last: int) -> None:
        """Map the pages of frames `first` to `last` - 1, which is faster than a page fault for every few of them."""
        size = self.frames[0].nbytes
        start = first * size // PAGE * PAGE
        with suppress(OSError):  # an older kernel
            self._map.madvise(_POPULATE_READ, start, last * size - start)


class NoRoom(Exception):
    """The cache is full."""


class Draft(ABC):
    """An entry that is being written, at offset `base` of a file."""

    def __init__(self, key: bytes, file: int, base: int, reserved: int, reserve: Callable[[int], bool]) -> None:
        """`reserved`: bytes that the frames may take up; `reserve` asks for more of them."""
        self._key, self._file, self._base = key, file, base
        self._room, self._reserve = reserved, reserve
        self._shape: Shape = 0, 0, 0, 0
        self._bytes, self._checksum = 0, xxh3_64()

    def write(self, pictures: Pictures) -> None:
        """Append pictures. Raises OSError, or NoRoom."""
        buffers = [np.ascontiguousarray(channel).data for picture in pictures for channel in picture]
        size = sum(buffer.nbytes for buffer in buffers)
        if size > self._room:
            if not self._reserve(size - self._room):
                raise NoRoom
            self._room = size
        if os.pwritev(self._file, buffers, self._base + PAGE + self._bytes) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for buffer in buffers:
            self._checksum.update(buffer)
        self._bytes, self._room = self._bytes + size, self._room - size
        channel = pictures[0][0]
        row = channel.nbytes // len(channel)
        self._shape = self._shape[0] + len(pictures), len(pictures[0]), len(channel), row

    def commit(self) -> None:
        """Make it an entry, which other processes find. Raises OSError."""
        os.pwrite(self._file, Header(self._key, self._shape, self._checksum.intdigest()).packed(), self._base)

    @abstractmethod
    def discard(self) -> None:
        """Forget it. Raises OSError."""


class Store(Protocol):
    """Where entries are kept. Any number of processes may use one."""

    def load(self, key: bytes) -> StoredFrames | None:
        """The key's entry, if there is one. Raises OSError."""

    def begin(self, key: bytes, size: int) -> Draft | None:
        """Begin an entry of about `size` bytes; None if it cannot be kept. Raises OSError, or NoRoom."""

    def reject(self, key: bytes) -> None:
        """Never return the key's entry again: it is broken. Raises OSError."""
