"""Frame batches in memory that stage 0 maps, if what feeds it, the coordinator or a reader, is on its host.

    feeder       place()    says where a batch lies; if too many are in use, waits for a credit, or returns None
                 put()      takes its envelope, with that place in it; flush() sends it
    stage 0      receive()  takes the envelope
                 frames()   reads the batch in place
                 release()  the oldest batch in use may be overwritten: sends some credits at a time

A batch that the decoders wrote stays where it is: their memory is passed to stage 0 with its first batch. Others are
copied into memory of the feeder's own. The first envelope of a phase is sent over ZeroMQ: by it stage 0 learns that
this phase's frames come this way. `IN_USE` bounds how far the feeder may run ahead of a slow pipeline; whoever owns the
memory leaves as many of the last batches alone.
"""

import os
import socket
from contextlib import closing, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import PeerError
from common.shared_memory.fd_passing import FdConnection, FdListener, connect
from common.shared_memory.frame_memory import IN_USE, FrameMemory
from common.shared_memory.memfd import allocation_error, mapped
from common.shared_memory.messages import MessageSocket

CREDITS = IN_USE // 2  # sent at once: a feeder that waits for each would be woken at every tick
_ENVELOPES, _MEMORY = "envelopes", "memory"

BatchLocation = tuple[int, int]
"""The number of the memory, in the order in which they were passed; the batch's offset in it, in bytes."""


class FrameSender:
    """The feeder's end."""

    def __init__(self, listener: str, size: int, deadline: float, timeout: float) -> None:
        """Connect to stage 0.

        Args:
            listener: name of stage 0's listener.
            size: bytes of a batch.
            deadline: seconds to wait for the connection.
            timeout: seconds that `place` waits until another batch may be sent.

        Raises:
            PeerError: stage 0 cannot be reached, or the memory cannot be allocated.
        """
        try:
            self._own = FrameMemory((IN_USE, size), "uint8")
        except (OSError, ValueError) as error:
            raise allocation_error(IN_USE * size, error) from error
        try:
            self._connection, ours = _introduced(listener, deadline)
        except PeerError:
            self._own.close()
            raise
        self._messages = MessageSocket(ours, timeout, 0)
        self._free, self._next = IN_USE, 0
        self._passed: FrameMemory | None = None  # the last one
        self._number = 0  # of memories passed

    def place(self, frames: NDArray[Any], memory: FrameMemory | None) -> BatchLocation | None:
        """Let stage 0 read a batch, which is copied unless it lies in `memory`.

        Returns:
            Where it lies; None if stage 0 has too many in use.

        Raises:
            PeerError: stage 0 is gone.
        """
        if not self._free and not self._receive_credits():
            return None
        self._free -= 1
        if memory is None:
            memory, frames = self._own, self._copied(frames)
        if memory is not self._passed:
            self._connection.send_files(_MEMORY, [memory.file])
            self._passed, self._number = memory, self._number + 1
        return self._number, memory.offset(frames)

    def put(self, envelope: bytes) -> None:
        """Give the envelope of a batch to `flush`."""
        self._messages.put(envelope)

    def flush(self) -> bool | None:
        """Send it. Returns None if stage 0 does not read; raises PeerError if it is gone."""
        try:
            return self._messages.flush() or None
        except OSError as error:
            raise _exited("stage 0", error) from error

    def close(self) -> None:
        """Close the connections; the memory is freed with its last user."""
        self._messages.close()
        self._connection.close()
        self._own.close()

    def _copied(self, frames: NDArray[Any]) -> NDArray[Any]:
        own: NDArray[Any] = self._own.pixels[self._next]
        own[:] = frames.reshape(-1).view(np.uint8)
        self._next = (self._next + 1) % IN_USE
        return own

    def _receive_credits(self) -> bool:
        try:
            self._free += self._messages.receive()
        except BlockingIOError:
            return False
        except OSError as error:
            raise _exited("stage 0", error) from error
        assert self._free <= IN_USE, "stage 0 releases only what it has read"
        return True


class FrameReceiver:
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
        largest: int = 1 << 20,
    ) -> None:
        """Listen for the feeder.

        Args:
            shape, kind: those of a batch.
            deadline: seconds to wait for the connection, and for an envelope.
            largest: bytes of an envelope that is accepted.
            pinned: a GPU reads the memory.
            feeder: what messages call it.
        """
        self._feeder, self._largest = feeder, largest
        self._listener = FdListener()
        self.name = self._listener.name
        self._shape, self._deadline, self._pinned, self._kind = torch.Size(shape), deadline, pinned, kind
        self._connection: FdConnection | None = None
        self._messages: MessageSocket | None = None
        self._memory = torch.empty(0, dtype=kind)  # the one that was passed last
        self._number, self._registered = 0, False
        self._views: dict[BatchLocation, Tensor] = {}  # in it, as the same places come again and again
        self._released = 0  # batches for which no credit was sent yet

    def frames(self, place: BatchLocation) -> Tensor:
        """The batch that lies there, of the batch's shape and kind, valid until `release`.

        Raises:
            PeerError: nothing can lie there, or the feeder does not connect in time.
        """
        if place in self._views:
            return self._views[place]
        number, offset = place
        if self._connection is None:
            self._accept()
        while self._number < number:
            self._map_next()
        first, unaligned = divmod(offset, self._kind.itemsize)
        last = first + self._shape.numel()
        if number != self._number or unaligned or last > len(self._memory):
            raise PeerError(
                f"received a frame batch at byte {offset} of memory {number}, but memory {self._number} has "
                f"{self._memory.nbytes} bytes: is another program sending?"
            )
        self._views[place] = view = self._memory[first:last].view(self._shape)
        return view

    def receive(self) -> bytes:
        """Wait for the next envelope.

        Raises:
            BlockingIOError: none came within the deadline.
            PeerError: the feeder is gone.
        """
        assert self._messages is not None, "the first one comes over ZeroMQ"
        try:
            return self._messages.receive_message()
        except BlockingIOError:
            raise
        except ConnectionAbortedError as error:
            raise PeerError(f"{self._feeder}: {error} (network.max_message)") from error
        except OSError as error:
            raise PeerError(f"{self._feeder} is gone ({error})") from error

    def release(self) -> None:
        """Let the oldest batch be overwritten. Raises PeerError if the feeder is gone."""
        assert self._messages is not None
        self._released += 1
        if self._released < CREDITS:
            return
        self._released = 0
        try:
            self._messages.send(bytes(CREDITS))
        except OSError as error:
            raise _exited(self._feeder, error) from error

    def close(self) -> None:
        """Close the listener and the connections."""
        self._listener.close()
        if self._messages is not None:
            self._messages.close()
        if self._connection is not None:
            self._connection.close()
        self._unmap()

    def _accept(self) -> None:
        self._connection = self._listener.accept(self._feeder, self._deadline)
        [file] = self._connection.receive_files(_ENVELOPES, 1)
        self._messages = MessageSocket(socket.socket(fileno=file), self._deadline, self._largest)

    def _map_next(self) -> None:
        """Map the memory that was passed next, in place of the one before it."""
        assert self._connection is not None
        [file] = self._connection.receive_files(_MEMORY, 1)
        self._unmap()
        try:
            self._memory = torch.frombuffer(mapped(file, os.fstat(file).st_size), dtype=self._kind)
        finally:
            os.close(file)
        self._number += 1
        self._registered = self._pinned and _pin(self._memory)

    def _unmap(self) -> None:
        if self._registered:
            _unpin(self._memory)
        self._views.clear()
        self._memory, self._registered = torch.empty(0, dtype=self._kind), False


def _introduced(listener: str, deadline: float) -> tuple[FdConnection, socket.socket]:
    """A connection to stage 0, for files, and this end of one for envelopes. Raises PeerError."""
    connection = connect(listener, "stage 0", deadline)
    ours, theirs = socket.socketpair()
    try:
        with closing(theirs):
            connection.send_files(_ENVELOPES, [theirs.fileno()])
    except PeerError:
        connection.close()
        ours.close()
        raise
    return connection, ours


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
