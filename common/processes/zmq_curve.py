"""Encryption and authentication of ZeroMQ between hosts (CurveZMQ, RFC 26).

Every process creates a key pair at each start and publishes the public key in the launcher's store. A listening socket
accepts only the public keys that it expects, which excludes processes of earlier attempts. On loopback there is no
encryption, which would cost a millisecond per megabyte.
"""

from collections.abc import Iterable
from functools import cache

import zmq
from zmq.auth.thread import ThreadAuthenticator

PublicKey = bytes  # 40 characters of Z85


@cache
def _guard() -> ThreadAuthenticator:
    """The authentication thread, one per process: a ZeroMQ context allows only one and is slow to release it."""
    guard = ThreadAuthenticator(zmq.Context.instance())
    guard.start()
    return guard


class CurveKeys:
    """The key pair of one process.

    Attributes:
        public: the public key, 40 bytes of Z85.
    """

    def __init__(self) -> None:
        self.public, self._secret = zmq.curve_keypair()
        self._allowed: set[PublicKey] = set()

    def allow(self, keys: Iterable[PublicKey]) -> None:
        """Accept processes with these public keys."""
        self._allowed.update(keys)

    def listen(self, socket: "zmq.Socket[bytes]") -> None:
        """Accept only allowed keys on a socket. Call before it binds."""
        domain = self.public.decode()
        _guard().configure_curve_callback(domain, credentials_provider=self)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        socket.curve_secretkey, socket.curve_publickey, socket.curve_server = self._secret, self.public, True

    def connect(self, socket: "zmq.Socket[bytes]", server: PublicKey) -> None:
        """Connect a socket only to the process with this public key. Call before it connects."""
        socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = self._secret, self.public, server

    def callback(self, domain: str, key: PublicKey) -> bool:
        """Whether a key may connect. Called by pyzmq in the authentication thread."""
        return key in self._allowed
