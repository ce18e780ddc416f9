"""The HTTP server of a process, for Prometheus and for the page. It runs in its own threads."""

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

_PATIENCE = 10.0  # socket timeout of a client, in seconds
_CLIENTS = 16  # concurrent clients
_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(registry: CollectorRegistry, settings: Metrics, number: int, address: str) -> str:
    """Serve metrics on port `settings.port + number` until this process ends. Returns "host:port" for Prometheus.

    Args:
        registry: the metrics to serve.
        address: this host's address for others, used in the result if the server is bound to all addresses.

    Raises:
        ConfigError: the port is in use or not permitted, or the password file is unreadable or malformed.
    """
    port = settings.port + number
    app: App = make_wsgi_app(registry)
    if settings.password_file is not None:
        app = _require_auth(app, _password(settings.password_file))
    try:
        server = Server(settings.host, port)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"metrics cannot be served at {settings.host}, port {port}: {getattr(error, 'strerror', error)}. "
            f"Set metrics.port so that it and the ports after it, one a stage, are free"
        ) from error
    server.start(app, "metrics")
    return public_address(settings.host, port, address)


def public_address(host: str, port: int, address: str) -> str:
    """The "host:port" that reaches a port bound to `host`; `address` replaces a wildcard such as 0.0.0.0."""
    host = address if host in _EVERYWHERE else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _password(path: Path) -> bytes:
    """The required Authorization header. Raises ConfigError for a bad password file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"metrics.password_file = {path} cannot be read: {error}") from error
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise ConfigError(f"metrics.password_file = {path} must hold one line, user:password")
    return b"Basic " + base64.b64encode(text.encode())


def _require_auth(app: App, wanted: bytes) -> App:
    """Require this Authorization header; answer 401 otherwise."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if hmac.compare_digest(given, wanted):
            return app(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="sideways"'), ("Content-Length", "0")])
        return [b""]

    return guarded


class Server(ThreadingMixIn, WSGIServer):
    """An HTTP server with one thread per client, a limit on concurrent clients and a timeout for slow ones."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Bind to the port; 0 means any free one. Raises OSError, or OverflowError for an invalid port number."""
        self._room = threading.BoundedSemaphore(_CLIENTS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def start(self, app: App, name: str) -> None:
        """Serve `app` until this process ends, in a thread of this name."""
        self.set_app(app)
        threading.Thread(target=self.serve_forever, name=name, daemon=True).start()

    def server_bind(self) -> None:
        """Bind without WSGIServer's reverse lookup of the host name, which may be slow."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a client; close the connection if there are too many clients."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one client, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect or time out."""


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log every request."""
