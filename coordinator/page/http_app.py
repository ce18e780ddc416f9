"""The page's port: a few files and the run's state over HTTP, for browsers that mean this host. Nothing can be changed.

A page of somebody else's, open in the same browser, can have its own name lead to this host (DNS rebinding) and would
then be let in as if it were ours: so requests must name an address, localhost or this host's name. Addresses cannot be
made to lead elsewhere.
"""

import mimetypes
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.config.settings import Report
from common.errors import ConfigError
from common.telemetry.http_server import Server, reached

ADDRESS = "page.url"  # in the run directory, while the run goes on: an attempt after this one takes the same port
STATE = "/api/state"
_STATIC = Path(__file__).parent / "static"
_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]


class PageServer:
    """The port. It is taken at once, so that one in use is told before anything is made, and opened later."""

    def __init__(self, report: Report, resumed: Path | None) -> None:
        """`resumed`: run directory whose page was somewhere. Raises ConfigError."""
        self._host = report.page_host
        self._server = _take(report, [report.page_port] if report.page_port else [*_before(resumed), 0])
        self._file: Path | None = None

    def open(self, state: Callable[[], bytes], address: str, run: Path) -> str:
        """Let people in from now on. Returns the page's URL.

        Args:
            state: makes the answer to /api/state, in any thread.
            address: this host's, by which others reach it where all its addresses are served.
            run: directory in which the URL is left.
        """
        self._server.start(PageApp(state, self._host), "page")
        url = f"http://{reached(self._host, self._server.server_port, address)}/"
        self._file = run / ADDRESS
        with suppress(OSError):  # a full disk is told by those who write what matters
            self._file.write_text(url + "\n", encoding="utf-8")
        return url

    def forget(self) -> None:
        """No attempt comes after this one."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()


def _before(resumed: Path | None) -> list[int]:
    """The port of an earlier attempt."""
    with suppress(OSError, ValueError):
        port = urlsplit((resumed / ADDRESS).read_text(encoding="utf-8").strip()).port if resumed else None
        return [port] if port else []
    return []


def _take(report: Report, ports: list[int]) -> Server:
    """The first of these that is free."""
    for last, port in enumerate(ports, 1 - len(ports)):
        try:
            return Server(report.page_host, port)
        except OSError as error:
            if not last:
                raise ConfigError(
                    f"the page cannot be served at {report.page_host}, port {port}: {error.strerror}. Set "
                    f"report.page_port to one that is free, or 0 for any, or report.page = false to do without"
                ) from error
    raise AssertionError("there is always one to try")


class PageApp:
    """What answers: a WSGI application."""

    def __init__(self, state: Callable[[], bytes], host: str) -> None:
        """`state` makes the answer to /api/state; `host`: that the port is bound to."""
        self._state = state
        self._names = {"localhost", socket.gethostname().lower(), host.lower()}
        self._files = {f"/{path.name}": (_kind(path), path.read_bytes()) for path in _STATIC.iterdir()}
        self._files["/"] = self._files.pop("/index.html")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, body = self._answer(environ)
        about = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Allow", "GET, HEAD")]
        start_response(status, [*about, *_HEADERS])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, str, bytes]:
        """Status, type and body."""
        path = environ.get("PATH_INFO", "")
        if not self._is_meant(environ.get("HTTP_HOST", "")):
            return (
                "403 Forbidden",
                _TEXT,
                b"Ask for this page by an address, by localhost or by this host's own name.\n",
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", _TEXT, b"This page only shows.\n"
        if path == STATE:
            return "200 OK", "application/json", self._state()
        if path in self._files:
            return "200 OK", *self._files[path]
        return "404 Not Found", _TEXT, f"There is / and {STATE}.\n".encode()

    def _is_meant(self, host: str) -> bool:
        """Whether a Host header names this host in a way that nobody else can have bent."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ip_address(name))
        except ValueError:
            return False


_TEXT = "text/plain; charset=utf-8"


def _kind(path: Path) -> str:
    kinds = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
    return kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
