"""A process's port for Prometheus, and for the page: an HTTP server in threads of its own."""

import base64
import hmac
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.config.settings import Metrics
from common.errors import ConfigError

_PATIENCE = 10.0  # seconds for a client to ask and to read
_CLIENTS = 16  # at a time
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(registry: CollectorRegistry, settings: Metrics, number: int, address: str) -> str:
    """Serve on port `settings.port + number`, for as long as this process lives. Returns "host:port" for Prometheus.

    Args:
        address: this host's, by which others reach it where all its addresses are served.

    Raises:
        ConfigError: the port is in use or not ours to take, or the password file is not as it should be.
    """
    port = settings.port + number
    app: App = make_wsgi_app(registry)
    if settings.password_file is not None:
        app = _guarded(app, _password(settings.password_file))
    try:
        server = Server(settings.host, port)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"metrics cannot be served at {settings.host}, port {port}: {getattr(error, 'strerror', error)}. "
            f"Set metrics.port so that it and the ports after it, one a stage, are free"
        ) from error
    server.start(app, "metrics")
    return reached(settings.host, port, address)


def reached(host: str, port: int, address: str) -> str:
    """Where a port bound to `host` is reached, as "host:port": at `address` where that is all of this host's."""
    host = address if host in _EVERYWHERE else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _password(path: Path) -> bytes:
    """What a request's Authorization header must be."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"metrics.password_file = {path} cannot be read: {error}") from error
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise ConfigError(f"metrics.password_file = {path} must hold one line, user:password")
    return b"Basic " + base64.b64encode(text.encode())


def _guarded(app: App, wanted: bytes) -> App:
    """Let in who knows the password."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if hmac.compare_digest(given, wanted):
            return app(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="sideways"'), ("Content-Length", "0")])
        return [b""]

    return guarded


class Server(ThreadingMixIn, WSGIServer):
    """A few clients at a time, a thread for each; who is too slow is left."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Take the port; 0: any free one. Raises OSError, or OverflowError for no such port."""
        self._room = threading.BoundedSemaphore(_CLIENTS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def start(self, app: App, name: str) -> None:
        """Serve `app` for as long as this process lives, in a thread of this name."""
        self.set_app(app)
        threading.Thread(target=self.serve_forever, name=name, daemon=True).start()

    def server_bind(self) -> None:
        """WSGIServer's own asks the network for this host's name, which may take its time."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a client, or no answer where there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One client, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or dawdles, is no news."""


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know of every scrape."""
