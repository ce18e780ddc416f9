"""Entries in anonymous memory (memfd) that the processes of one run share, and that is freed with the last of them.

    a count of bytes | entry | a hole | entry | …

The file is almost entirely a hole: the key determines an entry's offset, and only pages that were written take up
memory. Should two processes decode one clip at the same time, the one that locks its place keeps it. Of two keys with
the same offset, one chance in 67 million, only the first is kept.

The count is of bytes that entries take up or have reserved: an entry reserves what it needs when it is begun, or clips
begun at the same time would use up the memory before any of them has ended. What is counted twice, or reserved by a
process that was killed, remains counted, as that is little.

Nothing is removed to make room. Clips come in another random order in each epoch, and if the oldest were replaced,
fewer of them would still be there when they are played again than if the first that fit are kept.
"""

import fcntl
import os
import struct
import weakref

from coordinator.video.cache.entry import PAGE, Draft, Header, NoRoom, StoredFrames, read_header

_REGIONS, _REGION = 1 << 26, 1 << 36  # their number, and bytes of each
_COUNT = 0, 8  # offset and length of the count
_FLOCK = struct.Struct("hhqqi0q")  # type, whence, start, length, pid


class MemoryStore:
    """A `Store` in a memory file."""

    def __init__(self, file: int, limit: int) -> None:
        """`file`: its descriptor; `limit`: bytes that it may take up."""
        self._file, self._limit = file, limit
        self._locks = os.open(f"/proc/self/fd/{file}", os.O_RDWR)  # locks belong to it, not to what is inherited
        weakref.finalize(self, os.close, self._locks)

    def load(self, key: bytes) -> StoredFrames | None:
        """The key's entry, if there is one."""
        base = _base(key)
        header = read_header(self._file, base)
        return StoredFrames(self._file, base, header) if header and header.key == key and header.shape[0] else None

    def begin(self, key: bytes, size: int) -> Draft | None:
        """Begin an entry of about `size` bytes. None if it can never fit, or its place is taken. Raises NoRoom."""
        if size > min(self._limit, _REGION // 2) or not self._lock(key):
            return None
        if read_header(self._file, _base(key)):
            self.unlock(key)
            return None
        if not self.reserve(size + 2 * PAGE):  # the header, and the rest of the last page
            self.unlock(key)
            raise NoRoom
        return _MemoryDraft(self, key, self._file, size)

    def reject(self, key: bytes) -> None:
        """Never return the key's entry again, nor let it be written again, as others may be reading it."""
        _reject(self._file, key)

    def reserve(self, size: int) -> bool:
        """Whether `size` more bytes may be written."""
        start, length = _COUNT
        _set_lock(self._locks, fcntl.F_WRLCK, start, length, fcntl.F_OFD_SETLKW)  # held for microseconds
        try:
            count = int.from_bytes(os.pread(self._file, length, start), "little") + size
            if count > self._limit:
                return False
            os.pwrite(self._file, count.to_bytes(length, "little"), start)
            return True
        finally:
            _set_lock(self._locks, fcntl.F_UNLCK, start, length)

    def _lock(self, key: bytes) -> bool:
        """Lock the place of a key's entry until `unlock`, or the process's end. False if another process has it."""
        try:
            _set_lock(self._locks, fcntl.F_WRLCK, _base(key), 1)
        except OSError:
            return False
        return True

    def unlock(self, key: bytes) -> None:
        """Let other processes have it."""
        _set_lock(self._locks, fcntl.F_UNLCK, _base(key), 1)


class _MemoryDraft(Draft):
    def __init__(self, store: MemoryStore, key: bytes, file: int, reserved: int) -> None:
        super().__init__(key, file, _base(key), reserved, store.reserve)
        self._store = store

    def commit(self) -> None:
        """Make it an entry, and give back what it has reserved and not used."""
        super().commit()
        self._reserve(-self._room)
        self._store.unlock(self._key)

    def discard(self) -> None:
        """What was written remains in memory, so the clip is not written again."""
        _reject(self._file, self._key)
        self._store.unlock(self._key)


def _reject(file: int, key: bytes) -> None:
    os.pwrite(file, Header(key, (0, 0, 0, 0), 0, 0).packed(), _base(key))


def _set_lock(file: int, kind: int, start: int, length: int, command: int = fcntl.F_OFD_SETLK) -> None:
    """Lock or unlock a range for this open file. Raises OSError if another has it.

    POSIX's other locks (lockf) all end as soon as the process closes any descriptor of the file, as unmapping does.
    """
    fcntl.fcntl(file, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _base(key: bytes) -> int:
    return (1 + int.from_bytes(key[:8], "little") % _REGIONS) * _REGION
