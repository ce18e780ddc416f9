"""Credits between two processes of one host: a byte over a Unix socket says that a packet is there, or a slot is free.

Only the two ends hold the socket, so the death of one ends the other's stream at once; an end that is stuck is found by
the kernel's own limit on a receive.
"""

import socket

from common.shared_memory.fd_passing import limit_waits

_MOST = 64  # credits received at once


class CreditSocket:
    """One end. Nothing is allocated after it is made."""

    def __init__(self, connection: socket.socket, patience: float) -> None:
        """`patience` in seconds, of a `receive`."""
        self._connection, self._buffer = connection, bytearray(_MOST)
        limit_waits(connection, patience)

    def send(self) -> None:
        """Give the other side one credit. Raises OSError when it is gone."""
        self._connection.send(b"\0")

    def receive(self) -> int:
        """Wait for credits. Returns how many came, at least one.

        Raises:
            BlockingIOError: none came for `patience` seconds.
            OSError: the other side is gone.
        """
        count = self._connection.recv_into(self._buffer)
        if not count:
            raise ConnectionResetError("closed by the other side")
        return count

    def close(self) -> None:
        """End the other side's stream."""
        self._connection.close()
