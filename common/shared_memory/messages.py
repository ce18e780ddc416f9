"""Messages to a process of the same host over a Unix socket, which brings credits back (credits.py).

A message costs each side one or two system calls. Over ZeroMQ it would wake a thread of its own on either side.
"""

import socket
import struct

from common.shared_memory.credits import CreditSocket
from common.shared_memory.fd_passing import limit_waits

_LENGTH = struct.Struct("<I")


class MessageSocket(CreditSocket):
    """One end of the connection: one side sends messages, and the other sends credits."""

    def __init__(self, connection: socket.socket, timeout: float, largest: int) -> None:
        """`timeout` of every wait, in seconds; `largest`: bytes of a message that is accepted."""
        super().__init__(connection, timeout)
        limit_waits(connection, timeout, socket.SO_SNDTIMEO)
        self._largest = largest
        self._unsent = memoryview(b"")

    def put(self, message: bytes) -> None:
        """Give a message to `flush`, once that has sent the one before."""
        self._unsent = memoryview(_LENGTH.pack(len(message)) + message)

    def flush(self) -> bool:
        """Send what there is room for. Returns whether that is all; raises OSError if the peer is gone."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:  # the peer reads none of the messages before
            return False
        return True

    def receive_message(self) -> bytes:
        """Wait for a message.

        Raises:
            BlockingIOError: none came within the timeout.
            OSError: the peer is gone, or sends what is no message.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self._largest:
            raise ConnectionAbortedError(f"it sent a message of {length} bytes, at most {self._largest} are accepted")
        return self._read(length)

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:  # a large message may come in parts
            part = self._connection.recv(size - len(found), socket.MSG_WAITALL)
            if not part:
                raise ConnectionResetError("closed by the other side")
            found += part
        return found
