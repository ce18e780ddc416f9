"""Connections between processes on one host that pass file descriptors: shared memory and sockets.

They are Unix sockets in the abstract namespace: no file is created, and processes can connect exactly if they share a
network namespace. The name is random and is exchanged through the launcher's store or by RPC. The peer's user id is
checked.
"""

import os
import secrets
import socket
import struct
import time
from collections.abc import Sequence

from common.errors import PeerError

_CREDENTIALS = struct.Struct("3i")  # process, user, group


def limit_waits(connection: socket.socket, seconds: float, option: int = socket.SO_RCVTIMEO) -> None:
    """Set the kernel's timeout (then BlockingIOError): one system call, where Python's timeout takes two."""
    connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


class FdConnection:
    """A connection to a neighbouring process."""

    def __init__(self, connection: socket.socket, neighbour: str, deadline: float) -> None:
        """`deadline` is in seconds. Raises PeerError if the peer runs as another user."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.getuid():
            raise PeerError(
                f"{neighbour} on this host runs as user {user}, and this process as user {os.getuid()}: "
                f'run all processes as one user, or set network.transport = "gloo"'
            )
        self._connection, self._neighbour = connection, neighbour
        connection.settimeout(deadline)

    def send_files(self, name: str, files: Sequence[int]) -> None:
        """Send file descriptors; they stay open here. Raises PeerError."""
        try:
            socket.send_fds(self._connection, [name.encode()], list(files))
        except OSError as error:
            raise PeerError(f"{self._place()} did not accept file descriptors: {error}") from error

    def receive_files(self, name: str, count: int) -> list[int]:
        """Receive `count` file descriptors sent under this name. Raises PeerError."""
        try:
            received, files, _, _ = socket.recv_fds(self._connection, len(name), count)
        except OSError as error:
            raise PeerError(f"{self._place()} did not send file descriptors ({error}): see its own error") from error
        if received != name.encode() or len(files) != count:
            raise PeerError(
                f"{self._place()} sent {len(files)} file descriptors as {received!r}, expected {count} as {name!r}"
            )
        return files

    def close(self) -> None:
        """Close the connection; file descriptors that were passed stay open."""
        self._connection.close()

    def _place(self) -> str:
        return f"{self._neighbour}, a neighbour on this host,"


class FdListener:
    """A listening socket to which a neighbour connects.

    Attributes:
        name: of the socket in the abstract namespace, without the leading NUL byte.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.name = f"sideways-{secrets.token_hex(16)}"
        self._socket.bind("\0" + self.name)
        self._socket.listen(8)

    def accept(self, neighbour: str, deadline: float) -> FdConnection:
        """Accept one connection, then close the listener. Connections of other users are rejected.

        Raises:
            PeerError: none came within `deadline` seconds.
        """
        end, rejection = time.monotonic() + deadline, None
        try:
            while True:
                self._socket.settimeout(max(end - time.monotonic(), 0))
                connection, _ = self._socket.accept()
                try:
                    return FdConnection(connection, neighbour, deadline)
                except PeerError as error:
                    rejection = error
                    connection.close()
        except OSError as error:
            raise rejection or PeerError(f"{neighbour}, on this host, does not connect: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def connect(name: str, neighbour: str, deadline: float) -> FdConnection:
    """Connect to a neighbour's listener within `deadline` seconds. Raises PeerError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(deadline)
    try:
        connection.connect("\0" + name)
    except OSError as error:
        connection.close()
        raise PeerError(
            f"{neighbour}, on this host, cannot be reached over a Unix socket: {error}. If the processes do not "
            f'share a network namespace, set network.transport = "gloo"'
        ) from error
    return FdConnection(connection, neighbour, deadline)
