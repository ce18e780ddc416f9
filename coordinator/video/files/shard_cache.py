"""Shards on disk: a local file as it is, a remote one as a copy in a folder that processes and runs share.

A copy appears under its name once it is whole. Over HTTP it is asked for as a whole, as not every server sends parts.
Its draft is locked while it is written, so that a shard is downloaded once, and a draft that a killed process has left
is written again. The copies not used for longest go first; whoever is reading one keeps its open file.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.settings import Data
from common.errors import DataError
from common.processes.lifecycle import PATH_ERRORS
from coordinator.video.decoding.media_info import reason

Alive = Callable[[], None]
_PIECE = 1 << 22  # bytes read at a time
_PAUSES = (1.0, 4.0, 16.0)  # seconds before a download is tried again
_POLL = 0.1
_SILENCE = 20.0  # seconds without a byte after which a download is given up; less than a decoder may be silent
_BLOCK = 512  # bytes: a tar file ends with blocks of zeros
_ABANDONED = 3600.0  # seconds for which nothing was written to a draft


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        address: its path, or an address that fsspec knows.
        size: bytes; 0 if the server does not say.
        version: changes with its content.
    """

    address: str
    size: int
    version: str

    @property
    def remote(self) -> bool:
        """Whether it is read from a local copy."""
        return "://" in self.address

    @property
    def digest(self) -> str:
        """The name of its copy."""
        text = f"{self.address}\n{self.size}\n{self.version}"
        return hashlib.sha256(text.encode(errors=PATH_ERRORS)).hexdigest()[:32]


def find_shard(address: str, data: Data) -> Shard:
    """Look a shard up. Raises DataError if it is not there."""
    try:
        if "://" not in address:
            state = os.stat(address)
            return Shard(address, state.st_size, str(state.st_mtime_ns))
        system, path = file_system(address, data)
        about = system.info(path)
    except Exception as error:  # fsspec passes on those of many libraries
        raise DataError(f"the shard {address} cannot be read: {_told(error)}") from error
    names = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
    version = next((str(about[name]) for name in names if about.get(name)), "")
    return Shard(address, int(about.get("size") or 0), version)


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
        downloaded = _download(shard, path, data, alive)
        if downloaded is not None:
            return downloaded


def _download(shard: Shard, path: Path, data: Data, alive: Alive) -> int | None:
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
                _fetch(shard, draft, data, alive)
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


def _fetch(shard: Shard, draft: Any, data: Data, alive: Alive) -> None:
    """Download a shard, and again if that fails. Raises DataError."""
    for pause in (*_PAUSES, None):
        draft.truncate(0)
        try:
            failure = _copy(shard, draft, data, alive)
        except FileNotFoundError as error:
            raise DataError(f"the shard {shard.address} is gone: {_told(error)}") from error
        if not failure:
            return
        if pause is None:
            raise DataError(f"the shard {shard.address} cannot be downloaded: {failure}") from ConnectionError(failure)
        end = time.monotonic() + pause
        while time.monotonic() < end:
            alive()
            time.sleep(_POLL)


def _copy(shard: Shard, draft: Any, data: Data, alive: Alive) -> str:
    """Copy all bytes. Returns what went wrong with reading them; errors of writing are raised."""
    done, last = 0, b""
    try:
        system, path = file_system(shard.address, data)
        how = {"block_size": 0} if _is_http(shard.address) else {"block_size": _PIECE, "cache_type": "none"}
        source = system.open(path, "rb", **how)  # as a stream, or not 50 MiB at once, as of S3
    except FileNotFoundError:
        raise
    except Exception as error:
        return _told(error)
    with source:
        while True:
            try:
                piece = source.read(_PIECE)
            except Exception as error:
                return _told(error)
            if not piece:
                break
            draft.write(piece)
            done += len(piece)
            check_size(shard, data, done)
            alive()
            last = (last + piece)[-_BLOCK:]
    draft.flush()
    if shard.size:
        return f"it ended after {done} of {shard.size} bytes" if done != shard.size else ""
    return f"it is cut short after {done} bytes: no tar file ends like that" if last != bytes(_BLOCK) else ""


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


def file_system(address: str, data: Data) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path there."""
    import fsspec  # slow to import, and only needed for remote shards

    options = data.shard_options
    if _is_http(address):  # aiohttp gives a download five minutes in all
        from aiohttp import ClientTimeout

        patience = {"timeout": ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)}
        options = {**options, "client_kwargs": {**patience, **options.get("client_kwargs", {})}}
    system, path = fsspec.url_to_fs(address, **options)
    return system, path


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the server has sent nothing for {_SILENCE:g} s"
    if isinstance(error, ImportError):
        return f'{error}. pip install "sideways-video[s3]" for s3://, [http] for https://'
    return f"{type(error).__name__}: {error}"
