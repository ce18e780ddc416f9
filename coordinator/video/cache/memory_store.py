"""Entries in anonymous memory (memfd) that the processes of one run share, and that is freed with the last of them.

The file is almost entirely a hole: the key determines an entry's offset, so nothing is allocated or locked, and only
pages that were written take up memory. Should two processes decode one clip at the same time, they write the same bytes
to the same place. Of two keys with the same offset, one chance in 67 million, only the first is kept.

Nothing is removed to make room. Clips come in another random order in each epoch, and if the oldest were replaced,
fewer of them would still be there when they are played again than if the first that fit are kept.
"""

import os
from typing import Any

from coordinator.video.cache.entry import Draft, Header, NoRoom, StoredFrames, read_header

_REGIONS, _REGION = 1 << 26, 1 << 36  # their number, and bytes of each
_BLOCK = 512  # bytes of a block in struct stat


class MemoryStore:
    """A `Store` in a memory file."""

    def __init__(self, file: int, limit: int) -> None:
        """`file`: its descriptor; `limit`: bytes that it may take up."""
        self._file, self._limit = file, limit

    def load(self, key: bytes) -> StoredFrames | None:
        """The key's entry, if there is one."""
        base = _base(key)
        header = read_header(self._file, base)
        return StoredFrames(self._file, base, header) if header and header.key == key and header.shape[0] else None

    def begin(self, key: bytes, size: int) -> Draft | None:
        """Begin an entry of about `size` bytes. None if it can never fit, or its place is taken. Raises NoRoom."""
        if size > min(self._limit, _REGION // 2) or read_header(self._file, _base(key)):
            return None
        if not self._has_room(size):
            raise NoRoom
        return _MemoryDraft(self, key, self._file, _base(key), 0, self._has_room)

    def reject(self, key: bytes) -> None:
        """Never return the key's entry again, nor let it be written again, as others may be reading it."""
        os.pwrite(self._file, Header(key, (0, 0, 0, 0), 0).packed(), _base(key))

    def _has_room(self, size: int) -> bool:
        return os.fstat(self._file).st_blocks * _BLOCK + size <= self._limit


class _MemoryDraft(Draft):
    def __init__(self, store: MemoryStore, key: bytes, *place: Any) -> None:
        super().__init__(key, *place)
        self._store = store

    def discard(self) -> None:
        """What was written remains in memory, so the clip is not written again."""
        self._store.reject(self._key)


def _base(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") % _REGIONS * _REGION
