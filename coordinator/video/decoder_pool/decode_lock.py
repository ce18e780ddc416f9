"""The lock by which two processes take turns: one decodes while the other converts the frames it has decoded to pixels.

So decoding does not wait for conversion, and yet no more than `data.threads` files are decoded at a time. Two threads
of one process would compete for the interpreter lock (measured: with a converting thread beside the decoding one, small
frames took longer than with one thread for both).

It is a kernel file lock on one byte of the ring's memory file, so it is released when its holder dies.
"""

import fcntl
import os
import struct

from common.config.settings import Data

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, the holder's process id


class DecodeLock:
    """Context manager held by one process at a time. The coordinator kills a process that hangs while it holds it."""

    def __init__(self, file: int, number: int) -> None:
        """`file`: descriptor of the ring's memory file; `number`: offset of the byte to lock, one per pair."""
        self._file, self._number = file, number

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._number)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._number)

    def holder(self) -> int | None:
        """Id of the other process that holds the lock, or None."""
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, self._number, 1, 0)
        kind, *_, process = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_GETLK, request))
        return None if kind == fcntl.F_UNLCK else int(process)


def sharing(data: Data) -> int:
    """Processes per lock: 2, or 1 where each must import torch or the user's code, which takes time and memory."""
    return 1 if data.computes or data.own else 2
