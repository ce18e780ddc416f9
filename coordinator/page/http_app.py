"""Serves the page over HTTP, read-only: a few static files and the run's state as JSON.

The Host header of a request must be an IP address, localhost or this host's name. Otherwise a foreign page in the same
browser could point its own name at this host (DNS rebinding) and read the state. An IP address cannot be rebound.
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
from common.telemetry.http_server import Server, public_address

ADDRESS = "page.url"  # in the run directory, while the run lasts: the next attempt takes the same port
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
    """The page's HTTP server. The port is bound at once, to fail early if it is in use, and served from `open` on."""

    def __init__(self, report: Report, resumed: Path | None) -> None:
        """Bind the port.

        Args:
            report: has the host and port; port 0 takes that of the earlier attempt if free, else any.
            resumed: run directory that is resumed; None for a new run.

        Raises:
            ConfigError: the port cannot be bound.
        """
        self._host = report.page_host
        self._server = _bind(report, [report.page_port] if report.page_port else [*_before(resumed), 0])
        self._file: Path | None = None

    def open(self, state: Callable[[], bytes], address: str, run: Path) -> str:
        """Start to serve. Returns the page's URL.

        Args:
            state: returns the body of /api/state, as JSON; called in any thread.
            address: this host's address, for the URL if the port is bound to all addresses.
            run: run directory, to which the URL is written.
        """
        self._server.start(PageApp(state, self._host), "page")
        url = f"http://{public_address(self._host, self._server.server_port, address)}/"
        self._file = run / ADDRESS
        with suppress(OSError):  # a full disk is reported where it matters: by the run directory
            self._file.write_text(url + "\n", encoding="utf-8")
        return url

    def remove_url_file(self) -> None:
        """Remove the file with the URL: no later attempt needs the port."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()


def _before(resumed: Path | None) -> list[int]:
    """The port of an earlier attempt, as a list of at most one."""
    with suppress(OSError, ValueError):
        port = urlsplit((resumed / ADDRESS).read_text(encoding="utf-8").strip()).port if resumed else None
        return [port] if port else []
    return []


def _bind(report: Report, ports: list[int]) -> Server:
    """Bind the first of these ports that is free. Raises ConfigError if none is."""
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
    """The page's WSGI application."""

    def __init__(self, state: Callable[[], bytes], host: str) -> None:
        """`state`: returns the body of /api/state; `host`: the host that the port is bound to."""
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
        """HTTP status, content type and body."""
        path = environ.get("PATH_INFO", "")
        if not self._is_host_allowed(environ.get("HTTP_HOST", "")):
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

    def _is_host_allowed(self, host: str) -> bool:
        """Whether a Host header is safe against DNS rebinding: an IP address, localhost or this host's name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ip_address(name))
        except ValueError:
            return False


_TEXT = "text/plain; charset=utf-8"


def _kind(path: Path) -> str:
    kinds = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
    return kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
