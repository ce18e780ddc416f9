"""The metrics port: password, and a limited number of clients."""

import contextlib
import socket
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from common.config.settings import Metrics
from common.errors import ConfigError
from common.telemetry.http_server import serve
from common.telemetry.metric_registry import MetricRegistry
from tests.support.processes import free_ports


def fetch(address: str, login: str | None = None) -> int:
    request = urllib.request.Request(f"http://{address}/metrics")
    if login is not None:
        request.add_header("Authorization", "Basic " + b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status if b"sideways_loss" in answer.read() else 0
    except urllib.error.HTTPError as error:
        return error.code


def test_the_metrics_port_is_protected_by_a_password(tmp_path: Path) -> None:
    registry = MetricRegistry(stage="0")
    registry.set("sideways_loss", 1)
    (tmp_path / "password").write_text("watcher:s3:cret\n")
    address = serve(registry.registry, Metrics(port=free_ports(2), password_file=tmp_path / "password"), 1, "")
    assert fetch(address) == fetch(address, "watcher:wrong") == fetch(address, "watcher") == 401
    assert fetch(address, "watcher:s3:cret") == 200
    host, _, port = address.partition(":")
    place = host, int(port)
    with contextlib.ExitStack() as dawdlers:
        for _ in range(15):  # these connections block no others
            dawdlers.enter_context(socket.create_connection(place, timeout=10)).send(b"GET /met")
        assert fetch(address, "watcher:s3:cret") == 200

        def crowd() -> None:
            for _ in range(5):  # a connection that is just closing may still count
                dawdlers.enter_context(socket.create_connection(place, timeout=10)).send(b"GET /met")
                fetch(address, "watcher:s3:cret")

        with pytest.raises(OSError, match=r"closed|reset"):
            crowd()


def test_an_unusable_address_or_password_file_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use\. Set metrics\.port"):
            serve(MetricRegistry(stage="0").registry, Metrics(port=port - 1), 1, "")
    for content, message in ((b"", "one line"), (b"a:b\nc:d", "one line"), (b"\xff:x", "cannot be read")):
        (tmp_path / "password").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            serve(MetricRegistry(stage="0").registry, Metrics(port=1024, password_file=tmp_path / "password"), 0, "")
