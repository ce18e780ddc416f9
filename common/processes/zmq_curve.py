"""ZeroMQ between hosts: encrypted, and only with processes of this run (CurveZMQ, RFC 26).

Every process makes a key pair at each start, and publishes the public half in the launcher's store. A listening socket
lets in the public keys that it expects; anybody else, an earlier attempt's process included, gets nothing. On loopback
there is no encryption: it would cost a millisecond for a megabyte.
"""

from collections.abc import Iterable
from functools import cache

import zmq
from zmq.auth.thread import ThreadAuthenticator

PublicKey = bytes  # 40 characters of Z85


@cache
def _guard() -> ThreadAuthenticator:
    """The thread that decides who gets in. A ZeroMQ context has room for one, and frees its place late."""
    guard = ThreadAuthenticator(zmq.Context.instance())
    guard.start()
    return guard


class CurveKeys:
    """One process's keys. Attributes: public."""

    def __init__(self) -> None:
        self.public, self._secret = zmq.curve_keypair()
        self._allowed: set[PublicKey] = set()

    def allow(self, keys: Iterable[PublicKey]) -> None:
        """Let in processes with these public keys."""
        self._allowed.update(keys)

    def listen(self, socket: "zmq.Socket[bytes]") -> None:
        """Before the socket binds: let in only those that are allowed."""
        domain = self.public.decode()
        _guard().configure_curve_callback(domain, credentials_provider=self)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        socket.curve_secretkey, socket.curve_publickey, socket.curve_server = self._secret, self.public, True

    def connect(self, socket: "zmq.Socket[bytes]", server: PublicKey) -> None:
        """Before the socket connects: to the process with this public key, and no other."""
        socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = self._secret, self.public, server

    def callback(self, domain: str, key: PublicKey) -> bool:
        """Asked by pyzmq, in its thread, for everybody who wants in."""
        return key in self._allowed
