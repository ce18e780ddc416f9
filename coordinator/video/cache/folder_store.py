"""Entries as files of a folder, which runs may share, one after the other or at the same time.

    ab/abcd….frames      an entry, by its key; renamed to this name once it is whole
    drafts/….draft       entries that are being written, each locked by the process that writes it

The folder is bounded: the entries not used for longest are removed first. What was used since this run began remains,
as the run will play it again; if nothing else is left, the rest of the clips is not kept. Each process learns how full
the folder is by listing it, and then uses up to a sixteenth of the room, or one entry, before it lists it again. What
several processes take between two listings may exceed the bound by as much for each process but one.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from coordinator.video.cache.entry import PAGE, Draft, NoRoom, StoredFrames, read_header

_DRAFTS, _DRAFT, _SUFFIX = "drafts", ".draft", ".frames"
_SHARE = 16  # fraction of the room that is used between two listings, and of the limit that is freed at a time
_ATTEMPTS = 20  # to create a draft


class FolderStore:
    """A `Store` in a folder."""

    def __init__(self, folder: Path, limit: int, begun: float) -> None:
        """Use a folder that has been prepared.

        Args:
            limit: bytes that the entries may take up.
            begun: when the run began, in seconds since the epoch.
        """
        self._folder, self._limit, self._begun = folder, limit, begun
        self._room = 0  # bytes that may be written before the folder is listed again

    def load(self, key: bytes) -> StoredFrames | None:
        """The key's entry, if there is one. Removes it if it is not whole."""
        try:
            file = os.open(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            header = read_header(file, 0)
            if header and header.key == key and os.fstat(file).st_size == PAGE + header.size > PAGE:
                with suppress(OSError):  # it may belong to another user
                    os.utime(file)
                return StoredFrames(file, 0, header)
        finally:
            os.close(file)
        self.reject(key)
        return None

    def begin(self, key: bytes, size: int) -> Draft | None:
        """Begin an entry of about `size` bytes; None if it can never fit. Raises OSError, or NoRoom."""
        if size + PAGE > self._limit:
            return None
        if not self._reserve(size):
            raise NoRoom
        return _FolderDraft(self._folder / _DRAFTS, self._path(key), key, size, self._reserve)

    def reject(self, key: bytes) -> None:
        """Remove the key's entry: it is broken."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self._folder / name[:2] / (name + _SUFFIX)

    def _reserve(self, size: int) -> bool:
        """Whether `size` more bytes may be written. Removes old entries if necessary."""
        size += PAGE
        if size > self._room:
            room = self._make_room(max(size, self._limit // _SHARE))
            self._room = min(room, max(size, room // _SHARE))
        if size > self._room:
            return False
        self._room -= size
        return True

    def _make_room(self, size: int) -> int:
        """Remove the entries not used for longest, until `size` bytes are free. Returns how many are."""
        entries = sorted(_entries(self._folder))
        drafts = sum(state.st_size for _, state in _drafts(self._folder))
        room = self._limit - drafts - sum(entry.size for entry in entries)
        for entry in entries:
            if room >= size or entry.used >= self._begun:
                break
            entry.path.unlink(missing_ok=True)
            room += entry.size
        return room


class _FolderDraft(Draft):
    def __init__(self, folder: Path, path: Path, key: bytes, size: int, reserve: Callable[[int], bool]) -> None:
        self._path = path
        self._name, file = _locked(folder)
        super().__init__(key, file, 0, size, reserve)
        try:
            os.ftruncate(file, PAGE + size)  # so that others see how large it will be
        except OSError:
            self.discard()
            raise

    def commit(self) -> None:
        """Rename it to the entry's name."""
        try:
            super().commit()
            os.ftruncate(self._file, PAGE + self._bytes)
            self._path.parent.mkdir(exist_ok=True)
            self._name.replace(self._path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove it."""
        try:
            self._name.unlink(missing_ok=True)
        finally:
            os.close(self._file)


def _locked(folder: Path) -> tuple[Path, int]:
    """A new file's path and descriptor, locked. Raises OSError."""
    for _ in range(_ATTEMPTS):
        name = folder / (secrets.token_hex(16) + _DRAFT)
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return name, file
        os.close(file)  # before it was locked, another process took it for a stale one
    raise OSError(errno.EAGAIN, f"files in {folder} cannot be locked")


class _Entry(NamedTuple):
    used: float
    size: int
    path: Path


def prepare(folder: Path) -> None:
    """Create the folder, and remove what killed processes left unfinished. Raises OSError."""
    (folder / _DRAFTS).mkdir(parents=True, exist_ok=True)
    remove_stale_drafts(folder)


def remove_stale_drafts(folder: Path) -> None:
    """Remove drafts whose process has ended, and no file of the user's. Raises OSError."""
    for path, _ in _drafts(folder):
        with suppress(OSError), path.open("r+b") as file:  # to lock it, NFS wants it writable
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is being written
            path.unlink(missing_ok=True)


def _drafts(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    return (found for found in _files(folder / _DRAFTS) if found[0].suffix == _DRAFT)


def _entries(folder: Path) -> Iterator[_Entry]:
    for part in os.scandir(folder):
        if len(part.name) == 2 and part.is_dir():
            for path, state in _files(Path(part.path)):
                if path.suffix == _SUFFIX and path.name.startswith(part.name):
                    yield _Entry(state.st_mtime, state.st_size, path)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder that still exist when their turn comes."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            yield Path(entry.path), entry.stat()
