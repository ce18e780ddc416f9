"""Credits between two processes of one host: a byte over a Unix socket means a packet is ready, or a slot is free.

Only the two processes hold the socket, so if one dies, the other's stream ends at once. The kernel's receive timeout
detects a process that hangs.
"""

import socket

from common.shared_memory.fd_passing import limit_waits

_MOST = 64  # credits received at once


class CreditSocket:
    """One end of the connection. Allocates nothing after construction."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """`timeout` of `receive`, in seconds."""
        self._connection, self._buffer = connection, bytearray(_MOST)
        limit_waits(connection, timeout)

    def send(self, credits: bytes = b"\0") -> None:
        """Send one credit to the peer, or as many as there are bytes. Raises OSError if it is gone."""
        self._connection.send(credits)

    def receive(self) -> int:
        """Wait for credits. Returns the number received, at least one.

        Raises:
            BlockingIOError: none came within the timeout.
            OSError: the peer is gone.
        """
        count = self._connection.recv_into(self._buffer)
        if not count:
            raise ConnectionResetError("closed by the other side")
        return count

    def close(self) -> None:
        """Close the connection, which ends the peer's stream."""
        self._connection.close()
