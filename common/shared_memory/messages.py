"""Messages to a process of the same host over a Unix socket, which brings credits back (credits.py).

A message costs each side one or two system calls. Over ZeroMQ it would wake a thread of its own on either side.
"""

import socket
import struct

from common.shared_memory.credits import CreditSocket

_LENGTH = struct.Struct("<I")


class MessageSocket(CreditSocket):
    """One end of the connection: one side sends messages, and the other sends credits."""

    def __init__(self, connection: socket.socket, timeout: float, largest: int) -> None:
        """`timeout` of `receive` and `receive_message`, in seconds; `largest`: bytes of a message that is accepted."""
        super().__init__(connection, timeout)
        self._largest = largest

    def send_message(self, message: bytes) -> None:
        """Send a message. Waits while many are unread. Raises OSError if the peer is gone."""
        self._connection.sendall(_LENGTH.pack(len(message)) + message)

    def receive_message(self) -> bytes:
        """Wait for a message.

        Raises:
            BlockingIOError: none came within the timeout.
            OSError: the peer is gone, or sends what is no message.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self._largest:
            raise ConnectionAbortedError(f"a message of {length} bytes, at most {self._largest} are accepted")
        return self._read(length)

    def _read(self, size: int) -> bytes:
        found = self._connection.recv(size, socket.MSG_WAITALL)
        if len(found) < size:
            raise ConnectionResetError("closed by the other side")
        return found
