"""Runs in Redis, on a real server: what is told comes out as it went in, and nothing else does."""

import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, SidewaysError
from common.run_registry.records import (
    MOST_COMMAND,
    Answer,
    Command,
    Owner,
    Status,
    decode,
    decode_line,
    encode_line,
    plain,
)
from common.run_registry.redis_connection import RedisAccess, at_socket, from_environment
from common.run_registry.store import ALIVE, METRICS, Keys, RunWriter, Store
from coordinator.cli.live import _rate
from coordinator.cli.status_view import bar, overview, view
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis
from coordinator.registry.redis_publisher import RedisPublisher
from coordinator.registry.run_finder import everything
from tests.support.processes import environment
from tests.support.settings import config_of
from tests.support.waiting import gone

PASSWORD = "p@ss/wörd?"
HERE = Owner(host="here", directory="/runs/it", pid=1)


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisAccess]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("server"))
    yield server.access()
    server.close()


@pytest.fixture
def client(access: RedisAccess) -> "redis.Redis":
    client = access.connect()
    client.flushall()
    return client


def status_of(**fields: Any) -> Status:
    known = {"name": "it", "owner": HERE, "state": "running", "algorithm": "sideways", "planned": 100}
    return Status(**{**known, "started": 1.0, "updated": 2.0, "tick": 7, **fields})


def command(do: Any = "pause", lr: float | None = None) -> Command:
    return Command(id=os.urandom(16).hex(), do=do, lr=lr)


def test_what_a_run_tells_is_what_others_see(client: "redis.Redis") -> None:
    station, store = RunWriter(client, "it", HERE, anew=True), Store(client)
    lines = [{"kind": "progress", "tick": tick, "loss": tick / 3} for tick in range(5)]
    status = status_of(loss=0.5, evaluation={"val_top1": 0.25})
    assert station.exchange(status, [encode_line(line) for line in lines], {}) == []
    assert (store.names(), store.status("it"), store.alive("it")) == (["it"], status, True)
    assert store.metrics("it", 3) == lines[2:]
    assert 0 < client.ttl(Keys("it").heartbeat) <= ALIVE
    station.leave()
    assert not store.alive("it")
    assert store.status("other") is None


def test_a_command_is_heard_once_and_its_answer_comes_back(client: "redis.Redis") -> None:
    store = Store(client)
    store.ask("it", command("stop"))  # meant for an earlier run
    station = RunWriter(client, "it", HERE, anew=True)
    asked, withdrawn = command("set", lr=0.5), command("stop")
    store.ask("it", asked)
    store.withdraw("it", store.ask("it", withdrawn))
    assert station.exchange(status_of(), [], {}) == [asked]
    assert store.answer("it", asked) is None
    done = Answer(state="done", text="at tick 7")
    assert station.exchange(status_of(), [], {asked.id: done}) == []
    assert store.answer("it", asked) == done


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b'{"id":"x","do":"stop"}', b'{"do":"stop","id":"' + b"a" * 2 * MOST_COMMAND, b"{" * 3000]
    + [json.dumps({"id": "0" * 32, "do": "set", "lr": lr}).encode() for lr in (-1, "1", None, float("nan"), True)]
    + [json.dumps({"id": "0" * 32, "do": do}).encode() for do in ("kill", "set", 7)],
)
def test_what_is_no_command_is_told_and_does_no_harm(client: "redis.Redis", data: bytes) -> None:
    station, good = RunWriter(client, "it", HERE, anew=True), command()
    client.xadd(Keys("it").commands, {b"json": data})
    Store(client).ask("it", good)
    refused, heard = station.exchange(status_of(), [], {})
    assert isinstance(refused, str)
    assert heard == good


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_bytes_are_a_record_or_a_sentence(data: bytes) -> None:
    for kind in (Command, Status, Answer, Owner):
        with suppress(SidewaysError):
            decode(kind, data)
    with suppress(SidewaysError):
        assert isinstance(decode_line(data)["tick"], int)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_a_record_with_a_field_of_any_kind_is_one_or_a_sentence(value: Any) -> None:
    fields = json.loads(status_of().encode())
    for name in fields:
        with suppress(SidewaysError):
            found = decode(Status, json.dumps({**fields, name: value}).encode())
            assert found == decode(Status, found.encode())


@given(st.dictionaries(st.text(max_size=9), st.floats() | st.integers() | st.text(max_size=9) | st.none(), max_size=9))
def test_lines_keep_all_but_what_json_lacks(fields: dict[str, Any]) -> None:
    line = {**fields, "kind": "progress", "tick": 3, "losses": [1.0]}
    expected = {
        name: None if isinstance(value, float) and value - value != 0 else value
        for name, value in line.items()
        if name != "losses"
    }
    assert decode_line(encode_line(line)) == expected


@given(st.text())
def test_any_message_fits_a_record(text: str) -> None:
    assert decode(Status, status_of(message=plain(text)).encode()).message == plain(text)


def test_the_history_is_capped_and_a_resumed_run_forgets_what_it_does_again(client: "redis.Redis") -> None:
    station = RunWriter(client, "it", HERE, anew=True)
    total = METRICS + 1500
    for first in range(0, total, 500):
        lines = [encode_line({"kind": "progress", "tick": tick}) for tick in range(first, first + 500)]
        station.exchange(status_of(), lines, {})
    held = client.xlen(Keys("it").metrics)
    assert METRICS <= held <= METRICS + 200  # Redis cuts off whole nodes
    RunWriter(client, "it", HERE, anew=False).forget_from(total - 100)
    assert client.xlen(Keys("it").metrics) == held - 100
    assert Store(client).metrics("it", 1)[0]["tick"] == total - 101
    RunWriter(client, "it", HERE, anew=True)
    assert client.xlen(Keys("it").metrics) == 0


def test_two_living_runs_of_one_name_are_told_apart(client: "redis.Redis") -> None:
    first = RunWriter(client, "it", HERE, anew=True)
    first.exchange(status_of(), [], {})
    elsewhere = Owner(host="there", directory="/runs/it", pid=1)
    assert RunWriter(client, "it", elsewhere, anew=True).name == "it-1"
    assert RunWriter(client, "it", HERE, anew=False).name == "it"  # itself, resumed
    first.leave()
    assert RunWriter(client, "it", elsewhere, anew=True).name == "it"


# ---- reaching it


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with a password, behind TLS for which 127.0.0.1 has a certificate: its port. $SSL is beside it."""
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
    """Questions and answers one after another, as a client without pub/sub has them."""
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


def test_tls_and_passwords(guarded: int, tmp_path: Path) -> None:
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
    for wrong, said in (
        (f"rediss://:{quote(PASSWORD + 'x', safe='')}@127.0.0.1:{guarded}?ssl_ca_certs={certificate}", "invalid"),
        (f"rediss://:{quote(PASSWORD, safe='')}@127.0.0.1:{guarded}", "CERTIFICATE_VERIFY_FAILED"),
    ):
        access = RedisAccess(wrong)
        with pytest.raises(redis.RedisError) as caught:
            access.connect().ping()
        assert said in access.explain(caught.value)
        assert "w%C3%B6rd" not in access.explain(caught.value)


@given(st.text(min_size=4, alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])))
def test_a_password_is_never_shown(password: str) -> None:
    written = quote(password, safe="")
    access = RedisAccess(f"redis://me:{written}@127.0.0.1:1/0?password={written}")
    assert access.shown == "redis://127.0.0.1:1/0"
    assert repr(access) == "Access()"
    for error in (ValueError(f"cannot: {access.url}"), ValueError(f"no: {password}"), ValueError(f"so: {written}")):
        assert written not in access.explain(error).removeprefix("cannot").removeprefix("no").removeprefix("so")


@pytest.mark.parametrize(
    "url", ["http://x", "redis://", "secret", "redis://a:secret@b:port", "redis://[::1", "unix://"]
)
def test_a_wrong_address_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL is no address") as caught:
        from_environment({"REDIS_URL": url})
    assert "secret" not in str(caught.value)
    assert from_environment({}) is None
    with pytest.raises(ConfigError, match="cannot be read"):
        from_environment({"REDIS_URL_FILE": "/nothing/here"})


# ---- a private server


def test_a_private_server_has_no_port_and_only_its_user_gets_in(access: RedisAccess) -> None:
    socket_path = Path(access.shown.removeprefix("unix://"))
    assert (socket_path.stat().st_mode & 0o077, socket_path.parent.stat().st_mode & 0o077) == (0, 0)
    pid = int(access.connect().info("server")["process_id"])
    assert psutil.Process(pid).net_connections("inet") == []


def test_a_private_server_dies_with_its_process_and_the_next_one_clears_up(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from coordinator.registry.embedded_redis import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1]))\n"
        "print(server.access().connect().info('server')['process_id'], flush=True); time.sleep(60)"
    )
    out = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=out, text=True, env=environment())
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    before = (tmp_path / SOCKET).resolve()
    assert before.is_socket()
    parent.kill()
    parent.communicate()
    assert gone([pid], 5)
    server = EmbeddedRedis(tmp_path)
    assert server.access().connect().ping()
    assert not before.parent.exists()
    after = (tmp_path / SOCKET).resolve()
    server.close()
    assert not after.parent.exists()
    assert not (tmp_path / SOCKET).is_symlink()


# ---- the publisher


class Listener:
    """What a publisher says, and what it hears."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.commands: list[Command] = []


def publisher_at(tmp_path: Path, videos: Path, server: Any, listener: Listener) -> RedisPublisher:
    run = tmp_path / "it"
    run.mkdir()
    publisher = RedisPublisher(config_of(videos), run, 100, server, listener.commands.append, listener.warnings.append)
    publisher.start(resumed=False)
    return publisher


def until(what: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


LINE = {"kind": "progress", "stage": 0, "tick": 3, "tick_ms": 1.0, "compute_ms": 0.5, "receive_wait_ms": 0.1}
LINE |= {"send_wait_ms": 0.1, "data_wait_ms": 0.1, "peak_memory_mib": 9.0, "gradient_norm": float("nan")}


def test_a_publisher_outlives_its_redis(tmp_path: Path, videos: Path) -> None:
    listener, server = Listener(), EmbeddedRedis(tmp_path)
    late = tmp_path / "late.sock"
    publisher = publisher_at(tmp_path, videos, RedisAccess(f"unix://{late}"), listener)
    for tick in range(5000):  # more than it keeps
        publisher.line({**LINE, "tick": tick}, tick=tick + 1, loss=float("inf"))
    until(lambda: listener.warnings)
    late.symlink_to(server.access().shown.removeprefix("unix://"))
    until(lambda: len(listener.warnings) == 2)
    store = Store(server.access().connect())
    until(lambda: len(store.metrics("it", 5000)) >= 4096)
    ticks = [line["tick"] for line in store.metrics("it", 5000)]
    status = store.status("it")
    assert status is not None
    assert ticks == list(range(5000))[-len(ticks) :]
    assert status.dropped == 5000 - len(ticks)
    assert (status.tick, status.loss, status.stages[0].gradient_norm) == (5000, None, None)
    asked = command()
    store.ask("it", asked)
    until(lambda: listener.commands == [asked])
    until(lambda: store.answer("it", asked) is not None)
    publisher.answer(asked, Answer(state="done", text="so"))
    publisher.close("finished", "", 5000)
    answer, status = store.answer("it", asked), store.status("it")
    assert answer == Answer(state="done", text="so")
    assert status is not None
    assert (status.state, store.alive("it")) == ("finished", False)
    server.close()
    assert "does not answer" in listener.warnings[0]
    assert "answers again" in listener.warnings[1]
    assert [(seen.status.name, seen.state) for seen in everything(tmp_path)] == [("it", "finished")]


def at_private(folder: Path) -> "redis.Redis":
    return at_socket((folder / SOCKET).resolve()).connect()


def alive_at(folder: Path) -> bool:
    """Whether a run tells its private Redis that it lives."""
    with suppress(redis.RedisError, OSError):
        return Store(at_private(folder)).alive("it")
    return False


def test_a_private_redis_that_is_killed_is_replaced(tmp_path: Path, videos: Path) -> None:
    listener, server = Listener(), EmbeddedRedis(tmp_path)
    publisher = publisher_at(tmp_path, videos, server, listener)
    until(lambda: alive_at(tmp_path))
    first = int(at_private(tmp_path).info("server")["process_id"])
    os.kill(first, signal.SIGKILL)
    until(lambda: gone([first], 5) and alive_at(tmp_path))
    publisher.close("finished", "", 5000)
    until(lambda: not (tmp_path / SOCKET).is_symlink())


def test_a_closed_publisher_does_not_wait_for_a_redis_that_never_was(tmp_path: Path, videos: Path) -> None:
    listener = Listener()
    publisher = publisher_at(tmp_path, videos, RedisAccess("redis://127.0.0.1:1"), listener)
    publisher.line(LINE)
    until(lambda: listener.warnings)
    publisher.close("failed", "a\nreason", 3)
    assert len(listener.warnings) == 1
    seen = everything(tmp_path)[0]
    assert (seen.state, seen.status.message) == ("failed", "a reason")


# ---- the views


def test_a_bar_is_as_long_as_its_width_and_shows_the_shares() -> None:
    from common.run_registry.records import StageStatus

    known = {"stage": 0, "tick": 1, "peak_memory_mib": 1.0}
    times = {"tick_ms": 10.0, "compute_ms": 5.0, "receive_wait_ms": 1.0, "send_wait_ms": 1.0, "data_wait_ms": 2.0}
    assert bar(StageStatus(**known, **times), 20).plain == "█" * 10 + "▒" * 4 + "░" * 4 + "·" * 2
    late = {**times, "compute_ms": 50.0}
    assert bar(StageStatus(**known, **late), 20).plain == "█" * 20
    still = {**times, "tick_ms": 0.0}
    assert len(bar(StageStatus(**known, **still), 20).plain) == 20


def test_names_are_no_markup() -> None:
    from rich.console import Console

    from coordinator.registry.run_finder import RunInfo

    seen = RunInfo(status_of(name="[red]x[/red]"), "lost")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(overview([seen]), view(seen))
    text = console.export_text()
    assert text.count("[red]x[/red]") == 2
    with pytest.raises(SidewaysError, match="control characters"):
        decode(Status, status_of().encode().replace(b'"it"', b'"\\u001b[2J"'))


def test_only_the_learning_rate_is_set() -> None:
    assert (_rate("lr=1e-3"), _rate("optimiser.lr=0")) == (1e-3, 0.0)
    for wrong in ("seed=3", "lr", "lr=", "lr=nan", "lr=-1", "lr=inf", "=1"):
        with pytest.raises(ConfigError, match="learning rate"):
            _rate(wrong)
