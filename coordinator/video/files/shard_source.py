"""Shards where they are: found, and downloaded as a whole, as not every HTTP server sends parts."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from common.config.settings import Data
from common.errors import PATH_ERRORS, DataError

Alive = Callable[[], None]
_PIECE = 1 << 22  # bytes read at a time
_PAUSES = (1.0, 4.0, 16.0)  # seconds before a download is tried again
_POLL = 0.1
_SILENCE = 20.0  # seconds without a byte after which a download is given up; less than a decoder may be silent
_BLOCK = 512  # bytes: a tar file ends with blocks of zeros


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


def download(shard: Shard, draft: BinaryIO, data: Data, alive: Alive, check: Callable[[int], None]) -> None:
    """Write a remote shard's bytes to `draft`, and again if that fails.

    Args:
        alive: called from time to time.
        check: called with the number of bytes that have come; what it raises is passed on, as errors of writing are.

    Raises:
        DataError: the shard is gone, or cannot be read to its end.
    """
    for pause in (*_PAUSES, None):
        draft.truncate(0)
        try:
            failure = _copy(shard, draft, data, alive, check)
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


def _copy(shard: Shard, draft: BinaryIO, data: Data, alive: Alive, check: Callable[[int], None]) -> str:
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
            check(done)
            alive()
            last = (last + piece)[-_BLOCK:]
    draft.flush()
    if shard.size:
        return f"it ended after {done} of {shard.size} bytes" if done != shard.size else ""
    return f"it is cut short after {done} bytes: no tar file ends like that" if last != bytes(_BLOCK) else ""


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
