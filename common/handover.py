"""Frame batches in memory that the coordinator and stage 0 share where they are on one host.

    coordinator  put()    writes the next slot; if none is free, takes a byte off the socket, or says that there is none
    stage 0      slot(n)  reads it where it lies
                 done()   one byte: the oldest slot that it has not let go of is free

Which slot it is goes with the envelope, over ZeroMQ, so the order is ZeroMQ's, and the bound that a slow pipeline sets
the reader is the number of slots.
"""

import os
import socket
from contextlib import closing
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import PeerError
from common.lines import Listener, limit_waits, mapped, reach, shared_memory

SLOTS = 8
_MANY = 64  # bytes taken at once
_NAME = "frames"


class Giver:
    """The coordinator's end."""

    def __init__(self, listener: str, size: int, deadline: float, patience: float) -> None:
        """`listener`: its name; `size` in bytes; in seconds `deadline`, to meet, and `patience`, of a `put`.

        Raises PeerError.
        """
        file = shared_memory("sideways-batches", SLOTS * size)
        try:
            self._slots: NDArray[np.uint8] = np.frombuffer(mapped(file, SLOTS * size), np.uint8).reshape(SLOTS, size)
            with closing(reach(listener, "stage 0", deadline)) as line:
                self._connection, theirs = socket.socketpair()
                with theirs:
                    line.give(_NAME, [file, theirs.fileno()])
        finally:
            os.close(file)
        limit_waits(self._connection, patience)
        self._free, self._next = SLOTS, 0
        self._bytes = bytearray(_MANY)

    def put(self, frames: NDArray[np.uint8]) -> int | None:
        """Copy a batch. Returns its slot, or None when none has become free. Raises PeerError when stage 0 is gone."""
        if not self._free and not self._hear():
            return None
        slot = self._next
        self._slots[slot] = frames.reshape(-1)
        self._free -= 1
        self._next = (slot + 1) % SLOTS
        return slot

    def close(self) -> None:
        """Say no more; the memory goes with its last user."""
        self._connection.close()

    def _hear(self) -> bool:
        try:
            heard = self._connection.recv_into(self._bytes)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _gone("stage 0", str(error)) from error
        if not heard:
            raise _gone("stage 0", "closed by the other side")
        self._free += heard
        assert self._free <= SLOTS, "stage 0 lets go of what it took"
        return True


class Taker:
    """Stage 0's end. Attributes: name: of its listener."""

    def __init__(self, shape: tuple[int, ...], deadline: float) -> None:
        """`shape` of a batch; `deadline` in seconds."""
        self._listener = Listener()
        self.name = self._listener.name
        self._shape, self._deadline = shape, deadline
        self._slots: list[Tensor] = []
        self._connection: socket.socket | None = None

    def slot(self, number: int) -> Tensor:
        """A batch, uint8, until `done`. Raises PeerError when the coordinator, which has told its number, is gone."""
        if not self._slots:
            self._slots = self._meet()
        return self._slots[number]

    def done(self) -> None:
        """The oldest batch may be overwritten. Raises PeerError."""
        assert self._connection is not None
        try:
            self._connection.send(b"\0")
        except OSError as error:
            raise _gone("the coordinator", str(error)) from error

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def _meet(self) -> list[Tensor]:
        with closing(self._listener.accept("the coordinator", self._deadline)) as line:
            file, connection = line.take(_NAME, 2)
        self._connection = socket.socket(fileno=connection)
        shape = SLOTS, *self._shape
        try:
            return list(torch.frombuffer(mapped(file, prod(shape)), dtype=torch.uint8).view(shape))
        finally:
            os.close(file)


def _gone(who: str, how: str) -> PeerError:
    return PeerError(f"{who} has gone ({how}): it was killed, or has said why itself")
