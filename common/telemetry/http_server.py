"""HTTP servers of a process, for Prometheus and for the page: uvicorn in a thread."""

import asyncio
import base64
import hmac
import socket
import threading
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.config.settings import Metrics
from common.errors import ConfigError

_REQUEST_TIMEOUT = 10.0  # seconds for a client to complete a request; uvicorn itself has no such limit
_CLIENTS = 16  # connections at a time; further ones are closed at once
_ALL_ADDRESSES = {"", "0.0.0.0", "::"}  # noqa: S104


def serve(registry: CollectorRegistry, settings: Metrics, number: int, address: str) -> str:
    """Serve a registry on port `settings.port + number`, for as long as this process lives.

    Args:
        number: of this process among those of its host: 0 for the coordinator, 1 + i for its i-th stage.
        address: this host's, for the result if the port is bound to all addresses.

    Returns:
        "host:port" for Prometheus.

    Raises:
        ConfigError: the port cannot be bound, or the password file is malformed.
    """
    port = settings.port + number
    app: ASGIApp = make_asgi_app(registry)
    if settings.password_file is not None:
        app = _Guard(app, _password(settings.password_file))
    try:
        server = Server(settings.host, port)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"metrics cannot be served at {settings.host}, port {port}: {getattr(error, 'strerror', error)}. "
            f"Set metrics.port so that it and the ports after it, one per stage, are free"
        ) from error
    server.start(app, "metrics")
    return public_address(settings.host, port, address)


def public_address(host: str, port: int, address: str) -> str:
    """Where others reach a port bound to `host`, as "host:port": at `address` if it is bound to all addresses."""
    host = address if host in _ALL_ADDRESSES else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server:
    """An HTTP server whose port is bound at once, and served later. Attributes: port."""

    def __init__(self, host: str, port: int) -> None:
        """Bind the port; 0: any free one. Raises OSError, or OverflowError if there is no such port."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen()
        except (OSError, OverflowError):
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: ASGIApp, name: str) -> None:
        """Serve `app` for as long as this process lives, in a thread with this name."""
        config = uvicorn.Config(
            app,
            http=_Connection,
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
        )
        self._server = uvicorn.Server(config)
        arguments = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
        self._socket.close()


class _Connection(H11Protocol):
    """One of a few connections; closed unless it completes a request every few seconds."""

    _answered = _answered_before = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _CLIENTS:  # else they could use up this process's open files
            transport.abort()
        else:
            self.loop.call_later(_REQUEST_TIMEOUT, self._check)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answered += 1

    def _check(self) -> None:
        if self.transport.is_closing():
            return
        if self._answered == self._answered_before:
            self.transport.abort()
            return
        self._answered_before = self._answered
        self.loop.call_later(_REQUEST_TIMEOUT, self._check)


class _Guard:
    """Answers requests without the expected Authorization header with status 401."""

    def __init__(self, app: ASGIApp, expected: bytes) -> None:
        self._app, self._expected = app, expected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"")
        app: Any = self._app
        if not hmac.compare_digest(given, self._expected):
            app = Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="sideways"'})
        await app(scope, receive, send)


def _password(path: Path) -> bytes:
    """The Authorization header that requests must have."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"metrics.password_file = {path} cannot be read: {error}") from error
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise ConfigError(f"metrics.password_file = {path} must hold one line, user:password")
    return b"Basic " + base64.b64encode(text.encode())
