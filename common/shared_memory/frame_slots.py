"""Frame batches in memory that the coordinator and stage 0 share where they are on one host.

    coordinator  write()    writes the next slot; if none is free, waits for a credit, or returns None
    stage 0      frames(n)  reads slot n where it lies
                 release()  sends a credit: the oldest slot in use is free

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
from common.shared_memory.credits import CreditSocket
from common.shared_memory.fd_passing import FdListener, connect
from common.shared_memory.memfd import mapped, shared_memory

SLOTS = 8
_NAME = "frames"


class FrameSlotWriter:
    """The coordinator's end."""

    def __init__(self, listener: str, size: int, deadline: float, patience: float) -> None:
        """`listener`: its name; `size` in bytes; in seconds `deadline`, to meet, and `patience`, of a `put`.

        Raises PeerError.
        """
        file = shared_memory("sideways-batches", SLOTS * size)
        try:
            self._slots: NDArray[np.uint8] = np.frombuffer(mapped(file, SLOTS * size), np.uint8).reshape(SLOTS, size)
            with closing(connect(listener, "stage 0", deadline)) as connection:
                ours, theirs = socket.socketpair()
                with theirs:
                    connection.send_files(_NAME, [file, theirs.fileno()])
        finally:
            os.close(file)
        self._credits = CreditSocket(ours, patience)
        self._free, self._next = SLOTS, 0

    def write(self, frames: NDArray[np.uint8]) -> int | None:
        """Copy a batch. Returns its slot, or None when none has become free. Raises PeerError when stage 0 is gone."""
        if not self._free and not self._receive_credits():
            return None
        slot = self._next
        self._slots[slot] = frames.reshape(-1)
        self._free -= 1
        self._next = (slot + 1) % SLOTS
        return slot

    def close(self) -> None:
        """Close the connection; the memory is freed with its last user."""
        self._credits.close()

    def _receive_credits(self) -> bool:
        try:
            self._free += self._credits.receive()
        except BlockingIOError:
            return False
        except OSError as error:
            raise _gone("stage 0", error) from error
        assert self._free <= SLOTS, "stage 0 releases only what it has read"
        return True


class FrameSlotReader:
    """Stage 0's end. Attributes: name: of its listener."""

    def __init__(self, shape: tuple[int, ...], deadline: float) -> None:
        """`shape` of a batch; `deadline` in seconds."""
        self._listener = FdListener()
        self.name = self._listener.name
        self._shape, self._deadline = shape, deadline
        self._slots: list[Tensor] = []
        self._credits: CreditSocket | None = None

    def frames(self, number: int) -> Tensor:
        """The batch in a slot, uint8, valid until `release`.

        Raises PeerError when there is no such slot, or the coordinator is gone.
        """
        if number >= SLOTS:
            raise PeerError(
                f"a frame batch is said to lie in slot {number} of {SLOTS}: is something else sending here?"
            )
        if not self._slots:
            self._slots = self._meet()
        return self._slots[number]

    def release(self) -> None:
        """The oldest batch may be overwritten. Raises PeerError."""
        assert self._credits is not None
        try:
            self._credits.send()
        except OSError as error:
            raise _gone("the coordinator", error) from error

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        if self._credits is not None:
            self._credits.close()

    def _meet(self) -> list[Tensor]:
        with closing(self._listener.accept("the coordinator", self._deadline)) as connection:
            file, credits_fd = connection.receive_files(_NAME, 2)
        self._credits = CreditSocket(socket.socket(fileno=credits_fd), self._deadline)
        shape = SLOTS, *self._shape
        try:
            return list(torch.frombuffer(mapped(file, prod(shape)), dtype=torch.uint8).view(shape))
        finally:
            os.close(file)


def _gone(who: str, how: OSError) -> PeerError:
    return PeerError(f"{who} has gone ({how}): it was killed, or has said why itself")
