"""Two processes take turns at decoding: one decodes, while the other makes pixels of what it has decoded before.

So decoding need not wait for the conversion, and yet no more files are decoded at a time than `data.threads` says. Two
threads of one process would have to share the interpreter (measured: with a thread that converts beside the one that
decodes, small frames took longer than with one thread for both).

The baton is a lock of the kernel's on a byte of the ring's memory: whoever holds it lets go of it by dying, too.
"""

import fcntl
import os
import struct

from common.config.settings import Data

_ASKED = "hhqqi4x"  # struct flock: type, whence, start, length, the holder's process id


class DecodeLock:
    """`with` it, one process goes on at a time. One that hangs is ended by the coordinator, which waits for frames."""

    def __init__(self, file: int, number: int) -> None:
        """`file` is the ring's, `number` the processes' that pass it on."""
        self._file, self._number = file, number

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._number)

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._number)

    def holder(self) -> int | None:
        """The id of the process that holds it."""
        asked = struct.pack(_ASKED, fcntl.F_WRLCK, os.SEEK_SET, self._number, 1, 0)
        kind, *_, process = struct.unpack(_ASKED, fcntl.fcntl(self._file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else int(process)


def sharing(data: Data) -> int:
    """How many processes take turns: one where each needs torch, which takes long to start and much memory."""
    return 1 if data.computes else 2
