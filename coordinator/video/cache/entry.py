"""An entry of the cache: a header of one memory page, then the frames, [frames, channels, height, bytes of a row].

Grey video played as RGB (infra-red, X-ray, depth, old films) has three equal channels, of which one is kept: for large
frames the time to fill the cache is that of getting memory from the kernel, not of copying.

The header holds the key, the frames' shape and their checksum, and a checksum of its own, so a truncated or damaged
entry is not mistaken for a whole one. The frames' checksum is that of their channels' digests, by which equal channels
are found as well: to compare their pixels takes longer than to digest them. Reading maps the frames: a mapping stays
valid when the entry is removed.
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
from xxhash import xxh3_64, xxh3_64_digest, xxh3_64_intdigest, xxh3_128_digest

from coordinator.video.decoding.pictures import Pictures
from coordinator.video.decoding.scaler import Picture

PAGE = mmap.PAGESIZE
_FIELDS = struct.Struct("<8s32s4QQQ")  # magic, key, shape, channels played, checksum of the frames
_MAGIC, _SUM_BYTES = b"SWFRAME3", 8
_READ = 1 << 24  # bytes of frames verified at a time
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14: map many pages at once instead of faulting them in

Shape = tuple[int, int, int, int]


class Header(NamedTuple):
    """`shape`: as kept, with no frames where the clip must not be kept; `channels`: of a frame as it is played."""

    key: bytes
    shape: Shape
    channels: int
    checksum: int

    @property
    def size(self) -> int:
        """Bytes of the frames."""
        return prod(self.shape)

    def packed(self) -> bytes:
        """As one page."""
        fields = _FIELDS.pack(_MAGIC, self.key, *self.shape, self.channels, self.checksum)
        return (fields + xxh3_64_digest(fields)).ljust(PAGE, b"\0")


def read_header(file: int, base: int) -> Header | None:
    """The header at offset `base` of a file; None if there is none, or a damaged one."""
    data = os.pread(file, _FIELDS.size + _SUM_BYTES, base)
    fields, checksum = data[: _FIELDS.size], data[_FIELDS.size :]
    if len(checksum) != _SUM_BYTES or xxh3_64_digest(fields) != checksum:
        return None
    magic, key, *shape, channels, frames_checksum = _FIELDS.unpack(fields)
    return Header(key, (shape[0], shape[1], shape[2], shape[3]), channels, frames_checksum) if magic == _MAGIC else None


class StoredFrames:
    """The frames of an entry.

    Attributes:
        frames: read-only uint8 [frames, channels, height, bytes of a row]; channels that are equal share memory.
    """

    def __init__(self, file: int, base: int, header: Header) -> None:
        """Map the entry at offset `base`. Raises OSError."""
        self._map = mmap.mmap(file, header.size, prot=mmap.PROT_READ, offset=base + PAGE)
        self._kept: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8).reshape(header.shape)
        count, _, height, row = header.shape
        self.frames = np.broadcast_to(self._kept, (count, header.channels, height, row))
        self._checksum = header.checksum

    def is_intact(self, alive: Callable[[], None]) -> bool:
        """Whether the frames have their checksum. Reads all of them, and calls `alive` from time to time."""
        checksum, step = xxh3_64(), max(1, _READ // self._kept[0].nbytes)
        for first in range(0, len(self._kept), step):
            last = min(first + step, len(self._kept))
            self.load(first, last)
            for channel in self._kept[first:last].reshape(-1, self._kept[0, 0].size):
                checksum.update(xxh3_128_digest(channel.data))
            alive()
        return checksum.intdigest() == self._checksum

    def load(self, first: int, last: int) -> None:
        """Map the pages of frames `first` to `last` - 1, which is faster than a page fault for every few of them."""
        size = self._kept[0].nbytes
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
        self._bytes, self._digests = 0, bytearray()  # of the kept channels
        self._is_grey, self._channels = False, 0

    def write(self, pictures: Pictures) -> Pictures:
        """Append pictures. Returns them, equal channels as one, which is read faster. Raises OSError, or NoRoom."""
        buffers = [[np.ascontiguousarray(channel).data for channel in picture] for picture in pictures]
        digests = [[xxh3_128_digest(buffer) for buffer in picture] for picture in buffers]
        are_grey = all(map(_are_equal, digests))
        if not self._shape[0]:
            self._begin(pictures[0], are_grey)
        elif self._is_grey and not are_grey:
            self._repeat_channels()
        kept = self._shape[1]
        self._append([buffer for picture in buffers for buffer in picture[:kept]])
        self._digests += b"".join(digest for picture in digests for digest in picture[:kept])
        self._shape = self._shape[0] + len(pictures), *self._shape[1:]
        return [[picture[0]] * self._channels for picture in pictures] if self._is_grey else pictures

    def _begin(self, picture: Picture, is_grey: bool) -> None:
        """Take the shape of the first picture."""
        self._is_grey, self._channels = is_grey, len(picture)
        self._shape = 0, 1 if is_grey else self._channels, len(picture[0]), picture[0].nbytes // len(picture[0])

    def _append(self, buffers: list[memoryview]) -> None:
        size = sum(buffer.nbytes for buffer in buffers)
        self._take_room(size)
        self._write(buffers, self._bytes)
        self._bytes += size

    def _take_room(self, size: int) -> None:
        """Take `size` bytes of what is reserved. Raises NoRoom."""
        if size > self._room:
            if not self._reserve(size - self._room):
                raise NoRoom
            self._room = size
        self._room -= size

    def _write(self, buffers: list[memoryview], at: int) -> None:
        """Write at byte `at` of the frames. Raises OSError."""
        if os.pwritev(self._file, buffers, self._base + PAGE + at) < sum(buffer.nbytes for buffer in buffers):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _repeat_channels(self) -> None:
        """The video is not grey throughout, as after a fade-in from black: write what was kept again, as RGB."""
        count, _, height, row = self._shape
        size, channels = height * row, self._channels
        self._take_room((channels - 1) * self._bytes)
        for number in reversed(range(count)):  # each is written where those after it were
            frame = os.pread(self._file, size, self._base + PAGE + number * size)
            self._write([memoryview(frame)] * channels, number * channels * size)
        each = len(self._digests) // count
        self._digests = bytearray().join(
            channels * self._digests[start : start + each] for start in range(0, len(self._digests), each)
        )
        self._bytes *= channels
        self._is_grey, self._shape = False, (count, channels, height, row)

    def commit(self) -> None:
        """Make it an entry, which other processes find. Raises OSError."""
        header = Header(self._key, self._shape, self._channels, xxh3_64_intdigest(self._digests))
        os.pwrite(self._file, header.packed(), self._base)

    @abstractmethod
    def discard(self) -> None:
        """Forget it. Raises OSError."""


def _are_equal(digests: list[bytes]) -> bool:
    """Whether a picture has several channels, all with the same pixels."""
    return len(digests) > 1 and all(digest == digests[0] for digest in digests[1:])


class Store(Protocol):
    """Where entries are kept. Any number of processes may use one."""

    def load(self, key: bytes) -> StoredFrames | None:
        """The key's entry, if there is one. Raises OSError."""

    def begin(self, key: bytes, size: int) -> Draft | None:
        """Begin an entry of about `size` bytes; None if it cannot be kept. Raises OSError, or NoRoom."""

    def reject(self, key: bytes) -> None:
        """Never return the key's entry again: it is broken. Raises OSError."""
