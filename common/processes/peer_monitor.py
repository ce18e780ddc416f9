"""Notices that a peer of a listening ZeroMQ socket is gone: it has exited, or is silent for longer than a deadline."""

import zmq
from zmq.utils.monitor import recv_monitor_message

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_MOST_TTL = 6_553_500  # ms


class PeerMonitor:
    """Watches a socket. Create it before the socket listens."""

    def __init__(self, socket: "zmq.Socket[bytes]", deadline: float) -> None:
        """Each side considers the other lost after `deadline` seconds without a heartbeat.

        ZeroMQ's own threads send and answer heartbeats, so a silent peer is stopped or disconnected, not merely busy.
        """
        self._socket = socket
        self._failed_handshakes = 0  # connections that were no peer: a disconnect of one is not a lost peer
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(250 * deadline))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(1000 * deadline))
        socket.setsockopt(zmq.HEARTBEAT_TTL, min(int(1000 * deadline), _MOST_TTL))
        self._monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_REFUSED | zmq.EVENT_DISCONNECTED)

    def lost(self) -> bool:
        """Whether another peer has been lost since the last call."""
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._monitor)
            if event["event"] & _REFUSED:
                self._failed_handshakes += 1
            elif self._failed_handshakes:
                self._failed_handshakes -= 1
            else:
                return True
        return False

    def close(self) -> None:
        """Close the socket. The monitor is closed first: ZeroMQ's thread would block on one that nobody reads."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
