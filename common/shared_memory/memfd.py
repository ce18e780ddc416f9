"""Memory shared by the processes of one host, as an anonymous file (memfd)."""

import mmap
import os

from common.errors import PeerError


def memory_file(name: str, size: int) -> int:
    """Create an in-memory file of `size` bytes. Returns its file descriptor. Raises OSError."""
    file = os.memfd_create(name)
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        raise
    return file


def shared_memory(name: str, size: int) -> int:
    """As `memory_file`, but raises PeerError with a remedy."""
    try:
        return memory_file(name, size)
    except OSError as error:
        raise allocation_error(size, error) from error


def mapped(file: int, size: int) -> mmap.mmap:
    """Map `size` bytes of such a file. Raises PeerError."""
    try:
        return mmap.mmap(file, size)
    except (OSError, ValueError) as error:
        raise allocation_error(size, error) from error


def allocation_error(size: int, error: Exception) -> PeerError:
    """The error, with a remedy, when `size` bytes cannot be allocated or mapped."""
    return PeerError(
        f"{size / 2**20:.1f} MiB of shared memory cannot be allocated: {error}. Raise the limits (ulimit -f, -v), "
        f'or set network.transport = "gloo"'
    )
