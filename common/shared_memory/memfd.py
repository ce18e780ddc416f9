"""Memory that processes of one host share, as a file without a name."""

import mmap
import os

from common.errors import PeerError


def memory_file(name: str, size: int) -> int:
    """A file of so many bytes that lies in memory alone. Raises OSError."""
    file = os.memfd_create(name)
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        raise
    return file


def shared_memory(name: str, size: int) -> int:
    """The same. Raises PeerError."""
    try:
        return memory_file(name, size)
    except OSError as error:
        raise _none(size, error) from error


def mapped(file: int, size: int) -> mmap.mmap:
    """The memory of such a file. Raises PeerError."""
    try:
        return mmap.mmap(file, size)
    except (OSError, ValueError) as error:
        raise _none(size, error) from error


def _none(size: int, error: Exception) -> PeerError:
    return PeerError(
        f"{size / 2**20:.1f} MiB of shared memory cannot be had: {error}. Raise the limits (ulimit -f, -v), "
        f'or set network.transport = "gloo"'
    )
