"""Shards on disk: a local file as it is, a remote one as a copy in a folder that processes and runs share.

A copy appears under its name once it is whole. Its draft is locked while it is written, so that a shard is downloaded
once, and a draft that a killed process has left is written again. The copies not used for longest go first; whoever is
reading one keeps its open file.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.opening import reason
from coordinator.video.files.shard_source import Alive, Shard, download

_POLL = 0.1
_ABANDONED = 3600.0  # seconds for which nothing was written to a draft


@contextmanager
def opened_shard(shard: Shard, data: Data, alive: Alive = lambda: None) -> Iterator[int]:
    """The descriptor of its file, downloaded if it is not there; it stays valid if the copy is removed meanwhile.

    `alive` is called from time to time during a download.

    Raises:
        DataError: it cannot be read, or not to its end, or there is no room for it.
    """
    try:
        file = _open_copy(shard, data, alive) if shard.remote else os.open(shard.address, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"the shard {shard.address} cannot be read: {reason(error)}") from error
    try:
        if shard.size and os.fstat(file).st_size != shard.size:
            raise DataError(f"the shard {shard.address} has changed since the run began: start again")
        yield file
    finally:
        os.close(file)


def check_size(shard: Shard, data: Data, done: int = 0) -> None:
    """Raise DataError if there is no room for a copy, of which `done` bytes have come."""
    limit = data.shard_cache_size
    if max(shard.size, done) > limit:
        size = f"{shard.size}" if shard.size else f"at least {done}"
        raise DataError(
            f"the shard {shard.address} has {size} bytes, more than data.shard_cache_size = {limit}: raise that"
        )


def folder_of(data: Data) -> Path:
    """The folder of copies."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sideways"
    return data.shard_cache or default


def draft_of(shard: Shard, data: Data) -> Path:
    """The file that its copy is while it is downloaded."""
    return folder_of(data) / f"{shard.digest}.part"


def _open_copy(shard: Shard, data: Data, alive: Alive) -> int:
    path = folder_of(data) / f"{shard.digest}.tar"
    while True:
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_RDONLY)
            os.utime(file, ns=(time.time_ns(), os.fstat(file).st_mtime_ns))  # used last now
            return file
        downloaded = _write_copy(shard, path, data, alive)
        if downloaded is not None:
            return downloaded


def _write_copy(shard: Shard, path: Path, data: Data, alive: Alive) -> int | None:
    """Write a shard's copy, and open it, as it may be removed at once for another one.

    None if another process wrote it.
    """
    check_size(shard, data)
    limit = data.shard_cache_size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft_of(shard, data), "ab") as draft:
            _lock(draft.fileno(), alive)
            if not _is_still(draft.fileno(), draft.name) or path.exists():  # the process that had the lock wrote it
                return None
            _make_room(path.parent, limit - shard.size, Path(draft.name))
            try:
                download(shard, draft, data, alive, partial(check_size, shard, data))
            except DataError:
                draft.truncate(0)
                raise
            file = os.open(draft.name, os.O_RDONLY)
            try:
                os.replace(draft.name, path)
                _make_room(path.parent, limit - os.fstat(file).st_size, path)  # others may have been written meanwhile
            except OSError:
                os.close(file)
                raise
            return file
    except OSError as error:
        raise DataError(
            f"{shard.address} cannot be kept in {path.parent}: {reason(error)}. Name another folder as data.shard_cache"
        ) from error


def _is_still(file: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(name))
    return False


def _lock(file: int, alive: Alive) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alive()
            time.sleep(_POLL)


def _make_room(folder: Path, size: int, own: Path) -> None:
    """Remove copies and abandoned drafts other than `own` until what remains has at most `size` bytes."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            state = path.stat()
            abandoned = path.suffix == ".part" and state.st_mtime < time.time() - _ABANDONED
            if (path.suffix == ".tar" or abandoned) and path != own:
                found.append((max(state.st_atime_ns, state.st_mtime_ns), state.st_size, path))
    total = sum(each for _, each, _ in found)
    for _, each, path in sorted(found):
        if total <= size:
            return
        path.unlink(missing_ok=True)
        total -= each
