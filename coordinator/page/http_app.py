"""Serves the page over HTTP, read-only: a few static files, and the run's state and its frames as JSON.

The Host header of a request must be an IP address, localhost or this host's name. Otherwise a foreign page in the same
browser could point its own name at this host (DNS rebinding) and read the state. An IP address cannot be rebound.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.config.settings import Report
from common.errors import ConfigError
from common.telemetry.http_server import Server, public_address

ADDRESS = "page.url"  # in the run directory during the run: the next attempt uses the same port
STATE, FRAMES = "/api/state", "/api/frames"
_DIGITS = 19  # of a tick
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


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
        self._server = _bind(report, [report.page_port] if report.page_port else [*_previous_port(resumed), 0])
        self._file: Path | None = None

    def open(self, state: Callable[[], bytes], frames: Callable[[int], bytes | None], address: str, run: Path) -> str:
        """Start to serve. Returns the page's URL.

        Args:
            state: returns the body of /api/state, as JSON; called in any thread.
            frames: returns that of /api/frames, likewise, or None if there is none but that of the given tick.
            address: this host's address, for the URL if the port is bound to all addresses.
            run: run directory, to which the URL is written.
        """
        self._server.start(page_app(state, frames, self._host), "page")
        url = f"http://{public_address(self._host, self._server.port, address)}/"
        self._file = run / ADDRESS
        with suppress(OSError):  # a full disk is reported where it matters: by the run directory
            self._file.write_text(url + "\n", encoding="utf-8")
        return url

    def remove_url_file(self) -> None:
        """Remove the file with the URL: no later attempt needs the port."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()


def _previous_port(resumed: Path | None) -> list[int]:
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
                    f"report.page_port to a free port, or to 0 for any, or set report.page = false"
                ) from error
    raise AssertionError("`ports` is never empty")


def page_app(state: Callable[[], bytes], frames: Callable[[int], bytes | None], host: str) -> Starlette:
    """The page's application.

    Args:
        state, frames: return the bodies of /api/state and /api/frames; called in any thread.
        host: that the port is bound to.
    """

    def answer_state(request: Request) -> Response:
        return Response(state(), media_type="application/json")

    def answer_frames(request: Request) -> Response:
        shown = request.query_params.get("shown", "")
        body = frames(int(shown) if shown.isdecimal() and len(shown) < _DIGITS else -1)
        return Response(status_code=204) if body is None else Response(body, media_type="application/json")

    def answer_missing(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"Not found: this server only has /, {STATE} and {FRAMES}.\n", 404)

    def refuse_method(request: Request, error: Exception) -> Response:
        return PlainTextResponse("This page is read-only.\n", 405, {"Allow": "GET, HEAD"})

    return Starlette(
        routes=[
            Route(STATE, answer_state),
            Route(FRAMES, answer_frames),
            Mount("/", StaticFiles(directory=_STATIC, html=True)),
        ],
        middleware=[Middleware(_SafeHeaders), Middleware(_KnownHosts, host=host)],
        exception_handlers={404: answer_missing, 405: refuse_method},
    )


class _SafeHeaders:
    """Adds the headers that prevent pages of other sites from using this one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_safely)


class _KnownHosts:
    """Refuses requests whose Host header could be somebody else's name for this host (DNS rebinding)."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app, self._names = app, {"localhost", socket.gethostname().lower(), host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if not self._is_allowed(Headers(scope=scope).get("host", "")):
            app = PlainTextResponse("Open this page by IP address, as localhost or by this host's own name.\n", 403)
        await app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        """Whether it is an IP address, localhost or this host's name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ip_address(name))
        except ValueError:
            return False
