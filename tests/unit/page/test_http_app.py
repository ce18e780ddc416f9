"""The page's HTTP server: only for this host's names, and read-only."""

import http.client
import json
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from common.config.settings import Report
from common.errors import ConfigError
from coordinator.page.http_app import _STATIC, ADDRESS, PageServer
from coordinator.page.video import VideoView
from tests.support.page import Served, config_of


def test_other_host_names_and_methods_than_get_are_refused(served: Served) -> None:
    for host in ("127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:9", "192.168.0.7", socket.gethostname()):
        assert served.ask("/api/state", host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[", "localhost.evil.example"):
        for path in ("/", "/page.js", "/api/state", "/api/frames"):
            status, _, body = served.ask(path, host=host)
            assert (status, b"digits" in body or b"status" in body) == (403, False)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, headers, _ = served.ask("/api/state", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    for path in ("/../page.py", "/..%2fpage.py", "/static/page.js", "/page.py", "/api"):
        assert served.ask(path)[0] == 404
    assert served.ask("/index.html")[2] == served.ask("/")[2]
    status, headers, body = served.ask("/", "HEAD")
    assert (status, body, int(headers["Content-Length"]) > 1000) == (200, b"", True)


def test_every_response_has_a_strict_content_security_policy(served: Served) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/state", "/api/frames", "/nothing"):
        _, headers, _ = served.ask(path)
        policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {*policy.values()} == {"'none'", "'self'"}
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    kinds = {path: served.ask(path)[1]["Content-Type"].split(";")[0] for path in ("/", "/chart.js", "/page.css")}
    assert kinds == {"/": "text/html", "/chart.js": "text/javascript", "/page.css": "text/css"}
    for file in _STATIC.iterdir():
        assert not re.search(r"(?:src|href|url|from|import)\W{1,3}(?:https?:)?//", file.read_text())


def test_frames_are_sent_unless_they_are_shown_already(served: Served) -> None:
    class Video:
        def answer(self, tick: int) -> bytes | None:
            return None if tick == 41 else b'{"tick": 41}'

    assert served.ask("/api/frames")[0] == 204  # the run is not running yet
    served.page.running(config_of(), 0, dict, video=cast(VideoView, Video()))
    assert served.state()["video"]
    for query in ("", "?shown=", "?shown=40", "?shown=-1", "?shown=x", "?shown=" + "9" * 5000, "?shown=%D9%A4"):
        status, headers, body = served.ask("/api/frames" + query)
        assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", {"tick": 41})
    assert served.ask("/api/frames?shown=41")[0] == 204
    assert served.ask("/api/frames", "POST")[0] == 405


def test_a_port_in_use_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"port {port}: Address already in use\. Set report\.page_port"
        ) as caught:
            PageServer(Report(page_port=port), None)
        assert caught.value.code == 2
        (tmp_path / ADDRESS).write_text(f"http://127.0.0.1:{port}/\n")
        PageServer(Report(), tmp_path)._server.close()  # falls back to a free port
    with pytest.raises(ConfigError, match=r"at 203\.0\.113\.9"):
        PageServer(Report(page_host="203.0.113.9"), None)


def test_too_many_connections_are_refused(served: Served) -> None:
    with ExitStack() as dawdlers:
        for _ in range(16):
            dawdlers.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10)).send(b"GET /api")

        def crowd() -> None:
            for _ in range(20):  # connections just accepted may not be counted yet
                served.state()

        with pytest.raises((OSError, http.client.HTTPException)):
            crowd()
