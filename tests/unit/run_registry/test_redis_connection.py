"""Connections to Redis: TLS, passwords, wrong addresses."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.run_registry.redis_connection import RedisAccess, from_environment
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis

PASSWORD = "p@ss/wörd?"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with a password, behind TLS with a certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("guarded")
    server = EmbeddedRedis(folder)
    inner = server.access()
    inner.connect().config_set("requirepass", PASSWORD)
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {folder}/key -out {folder}/cert -days 2 -subj /CN=x"
    subprocess.run(
        [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener, context, str((folder / SOCKET).resolve()))
        threading.Thread(target=serve_tls, args=arguments, daemon=True).start()
        os.environ["SIDEWAYS_TEST_CERT"] = str(folder / "cert")
        yield listener.getsockname()[1]
    server.close()


def serve_tls(listener: socket.socket, context: ssl.SSLContext, target: str) -> None:
    """Pass on requests and replies in turn, which suffices for a client without pub/sub."""
    with suppress(OSError):
        while True:
            plain_end, _ = listener.accept()
            threading.Thread(target=pass_on, args=(plain_end, context, target), daemon=True).start()


def pass_on(plain_end: socket.socket, context: ssl.SSLContext, target: str) -> None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as inner:
        outer = context.wrap_socket(plain_end, server_side=True)
        inner.connect(target)
        while data := outer.recv(1 << 16):
            inner.sendall(data)
            outer.sendall(inner.recv(1 << 16))


def test_connections_use_tls_and_passwords(guarded: int, tmp_path: Path) -> None:
    certificate = os.environ["SIDEWAYS_TEST_CERT"]
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "url").write_text(
        f"rediss://:{quote(PASSWORD, safe='')}@127.0.0.1:{guarded}?ssl_ca_certs={certificate}"
    )
    url = f"rediss://127.0.0.1:{guarded}?ssl_ca_certs={certificate}"
    good = [
        {"REDIS_URL_FILE": str(tmp_path / "url")},
        {"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(tmp_path / "password")},
    ]
    for variables in good:
        access = from_environment(variables)
        assert access is not None
        assert access.connect().ping()
        assert PASSWORD not in f"{access} {access.shown}"
    for wrong, message in (
        (f"rediss://:{quote(PASSWORD + 'x', safe='')}@127.0.0.1:{guarded}?ssl_ca_certs={certificate}", "invalid"),
        (f"rediss://:{quote(PASSWORD, safe='')}@127.0.0.1:{guarded}", "CERTIFICATE_VERIFY_FAILED"),
    ):
        access = RedisAccess(wrong)
        with pytest.raises(redis.RedisError) as caught:
            access.connect().ping()
        assert message in access.explain(caught.value)
        assert "w%C3%B6rd" not in access.explain(caught.value)


@given(st.text(min_size=4, alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])))
def test_a_password_never_appears_in_messages(password: str) -> None:
    written = quote(password, safe="")
    access = RedisAccess(f"redis://me:{written}@127.0.0.1:1/0?password={written}")
    assert access.shown == "redis://127.0.0.1:1/0"
    assert repr(access) == "RedisAccess()"
    for error in (ValueError(f"cannot: {access.url}"), ValueError(f"no: {password}"), ValueError(f"so: {written}")):
        assert written not in access.explain(error).removeprefix("cannot").removeprefix("no").removeprefix("so")


@pytest.mark.parametrize(
    "url", ["http://x", "redis://", "secret", "redis://a:secret@b:port", "redis://[::1", "unix://"]
)
def test_a_wrong_address_is_an_error_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL is not the address") as caught:
        from_environment({"REDIS_URL": url})
    assert "secret" not in str(caught.value)
    assert from_environment({}) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        from_environment({"REDIS_URL_FILE": "/nothing/here"})
