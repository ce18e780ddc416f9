"""Frame batches in memory that stage 0 shares with what feeds it, the coordinator or a reader, if that is on its host.

    feeder       write()    writes the next slot; if none is free, waits for a credit, or returns None
    stage 0      frames(n)  reads slot n in place
                 release()  sends a credit: the oldest slot in use is free

The slot number is sent in the frame's envelope over ZeroMQ, which keeps the order. The number of slots bounds how far
the reader may run ahead of a slow pipeline.
"""

import os
import socket
from contextlib import closing, suppress
from math import prod
from typing import Any

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
    """The feeder's end."""

    def __init__(self, listener: str, size: int, deadline: float, timeout: float) -> None:
        """Allocate the slots and pass them to stage 0.

        Args:
            listener: name of stage 0's listener.
            size: bytes of a batch.
            deadline: seconds to wait for the connection.
            timeout: seconds that `write` waits for a free slot.

        Raises:
            PeerError: stage 0 cannot be reached, or the memory cannot be allocated.
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
        self._credits = CreditSocket(ours, timeout)
        self._free, self._next = SLOTS, 0

    def write(self, frames: NDArray[Any]) -> int | None:
        """Copy a batch into a slot. Returns its number; None if none is free. Raises PeerError if stage 0 is gone."""
        if not self._free and not self._receive_credits():
            return None
        slot = self._next
        self._slots[slot] = frames.reshape(-1).view(np.uint8)
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
            raise _exited("stage 0", error) from error
        assert self._free <= SLOTS, "stage 0 releases only what it has read"
        return True


class FrameSlotReader:
    """Stage 0's end.

    Attributes:
        name: name of its listener.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        deadline: float,
        pinned: bool = False,
        kind: torch.dtype = torch.uint8,
        feeder: str = "the coordinator",
    ) -> None:
        """Listen for the feeder.

        Args:
            shape, kind: those of a batch.
            deadline: seconds to wait for the connection.
            pinned: a GPU reads the slots.
            feeder: what messages call it.
        """
        self._feeder = feeder
        self._listener = FdListener()
        self.name = self._listener.name
        self._shape, self._deadline, self._pinned, self._kind = shape, deadline, pinned, kind
        self._slots: list[Tensor] = []
        self._registered: Tensor | None = None
        self._credits: CreditSocket | None = None

    def frames(self, number: int) -> Tensor:
        """The batch in a slot, of the batch's shape and kind, valid until `release`.

        Raises:
            PeerError: there is no such slot, or the feeder does not connect in time.
        """
        if number >= SLOTS:
            raise PeerError(
                f"received a frame batch in slot {number}, but there are {SLOTS} slots: is another program sending?"
            )
        if not self._slots:
            self._slots = self._accept()
        return self._slots[number]

    def release(self) -> None:
        """Let the oldest batch be overwritten. Raises PeerError if the feeder is gone."""
        assert self._credits is not None
        try:
            self._credits.send()
        except OSError as error:
            raise _exited(self._feeder, error) from error

    def close(self) -> None:
        """Close the listener and the connection."""
        self._listener.close()
        if self._credits is not None:
            self._credits.close()
        if self._registered is not None:
            _unpin(self._registered)
            self._registered = None
        self._slots = []

    def _accept(self) -> list[Tensor]:
        with closing(self._listener.accept(self._feeder, self._deadline)) as connection:
            file, credits_fd = connection.receive_files(_NAME, 2)
        self._credits = CreditSocket(socket.socket(fileno=credits_fd), self._deadline)
        shape = SLOTS, *self._shape
        try:
            memory = torch.frombuffer(mapped(file, prod(shape) * self._kind.itemsize), dtype=self._kind)
        finally:
            os.close(file)
        if self._pinned and _pin(memory):
            self._registered = memory
        return list(memory.view(shape))


def _exited(who: str, reason: OSError) -> PeerError:
    return PeerError(f"{who} has exited ({reason}): it was killed or has failed; see its own error")


def _pin(memory: Tensor) -> bool:
    """Let GPUs read this memory without a detour. Returns whether that is possible."""
    if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)) == 0:
        return True
    with suppress(RuntimeError):  # CUDA would report this failure at the next launch, whichever that is
        torch.zeros(1, device="cuda")
    return False


def _unpin(memory: Tensor) -> None:
    """Undo `_pin`, before the memory is unmapped: its addresses may be used again."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
