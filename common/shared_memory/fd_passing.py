"""Connections between neighbours on one host, over which they pass each other open files: memory, and sockets.

They are Unix sockets in the abstract namespace: nothing lies on the disk, and processes see each other exactly where
they share the network. The name is random, and told through the launcher's store or by RPC; the other side's user is
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


def limit_waits(connection: socket.socket, seconds: float) -> None:
    """Let the kernel end each receive after so long (BlockingIOError): one call, where Python's own takes two."""
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    )


class FdConnection:
    """A connection to a neighbour."""

    def __init__(self, connection: socket.socket, neighbour: str, deadline: float) -> None:
        """`deadline` in seconds. Raises PeerError where the other side is another user's process."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.getuid():
            raise PeerError(
                f"a process of user {user} speaks for {neighbour} on this host, and this one is user "
                f'{os.getuid()}\'s: run all processes as one user, or set network.transport = "gloo"'
            )
        self._connection, self._neighbour = connection, neighbour
        connection.settimeout(deadline)

    def send_files(self, name: str, files: Sequence[int]) -> None:
        """Pass files on; they stay open here. Raises PeerError."""
        try:
            socket.send_fds(self._connection, [name.encode()], list(files))
        except OSError as error:
            raise PeerError(f"{self._place()} takes no files: {error}") from error

    def receive_files(self, name: str, count: int) -> list[int]:
        """The files that the neighbour gives by this name. Raises PeerError."""
        try:
            said, files, _, _ = socket.recv_fds(self._connection, len(name), count)
        except OSError as error:
            raise PeerError(f"{self._place()} gives no files: {error}: look at its own message") from error
        if said != name.encode() or len(files) != count:
            raise PeerError(f"{self._place()} gives {len(files)} files for {said!r} where {name!r} was due")
        return files

    def close(self) -> None:
        """What was passed stays open."""
        self._connection.close()

    def _place(self) -> str:
        return f"{self._neighbour}, a neighbour on this host,"


class FdListener:
    """Where the neighbour finds this process."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.name = f"sideways-{secrets.token_hex(16)}"
        self._socket.bind("\0" + self.name)
        self._socket.listen(8)

    def accept(self, neighbour: str, deadline: float) -> FdConnection:
        """The connection; those of other users are closed. Raises PeerError when none comes for `deadline` seconds."""
        end, stranger = time.monotonic() + deadline, None
        try:
            while True:
                self._socket.settimeout(max(end - time.monotonic(), 0))
                connection, _ = self._socket.accept()
                try:
                    return FdConnection(connection, neighbour, deadline)
                except PeerError as error:
                    stranger = error
                    connection.close()
        except OSError as error:
            raise stranger or PeerError(f"{neighbour}, on this host, does not connect: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Be found no more."""
        self._socket.close()


def connect(name: str, neighbour: str, deadline: float) -> FdConnection:
    """A connection to a neighbour's listener. Raises PeerError."""
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
