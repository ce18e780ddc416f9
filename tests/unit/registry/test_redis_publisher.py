"""Publishing a run in Redis, also while that fails or comes back."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from common.run_registry.records import (
    Answer,
    Command,
)
from common.run_registry.redis_connection import RedisAccess, at_socket
from common.run_registry.store import Store
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis
from coordinator.registry.redis_publisher import RedisPublisher
from coordinator.registry.run_finder import list_runs
from tests.support.records import command
from tests.support.settings import config_of
from tests.support.waiting import gone, wait_until


class Listener:
    """Collects a publisher's warnings and commands."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.commands: list[Command] = []


def publisher_at(tmp_path: Path, videos: Path, server: Any, listener: Listener) -> RedisPublisher:
    run = tmp_path / "it"
    run.mkdir()
    publisher = RedisPublisher(config_of(videos), run, 100, server, listener.commands.append, listener.warnings.append)
    publisher.start(resumed=False)
    return publisher


LINE = {"kind": "progress", "stage": 0, "tick": 3, "tick_ms": 1.0, "compute_ms": 0.5, "receive_wait_ms": 0.1}


LINE |= {"send_wait_ms": 0.1, "data_wait_ms": 0.1, "peak_memory_mib": 9.0, "gradient_norm": float("nan")}


def test_a_publisher_survives_the_loss_of_redis(tmp_path: Path, videos: Path) -> None:
    listener, server = Listener(), EmbeddedRedis(tmp_path)
    late = tmp_path / "late.sock"
    publisher = publisher_at(tmp_path, videos, RedisAccess(f"unix://{late}"), listener)
    for tick in range(5000):  # more than the history keeps
        publisher.line({**LINE, "tick": tick}, tick=tick + 1, loss=float("inf"))
    wait_until(lambda: listener.warnings)
    late.symlink_to(server.access().shown.removeprefix("unix://"))
    wait_until(lambda: len(listener.warnings) == 2)
    store = Store(server.access().connect())
    wait_until(lambda: len(store.metrics("it", 5000)) >= 4096)
    ticks = [line["tick"] for line in store.metrics("it", 5000)]
    status = store.status("it")
    assert status is not None
    assert ticks == list(range(5000))[-len(ticks) :]
    assert status.dropped == 5000 - len(ticks)
    assert (status.tick, status.loss, status.stages[0].gradient_norm) == (5000, None, None)
    sent = command()
    store.send_command("it", sent)
    wait_until(lambda: listener.commands == [sent])
    wait_until(lambda: store.answer("it", sent) is not None)
    publisher.answer(sent, Answer(state="done", text="so"))
    publisher.close("finished", "", 5000)
    answer, status = store.answer("it", sent), store.status("it")
    assert answer == Answer(state="done", text="so")
    assert status is not None
    assert (status.state, store.alive("it")) == ("finished", False)
    server.close()
    assert "does not answer" in listener.warnings[0]
    assert "answers again" in listener.warnings[1]
    assert [(seen.status.name, seen.state) for seen in list_runs(tmp_path)] == [("it", "finished")]


def at_private(folder: Path) -> "redis.Redis":
    return at_socket((folder / SOCKET).resolve()).connect()


def alive_at(folder: Path) -> bool:
    """Whether the run's heartbeat is in its private Redis."""
    with suppress(redis.RedisError, OSError):
        return Store(at_private(folder)).alive("it")
    return False


def test_a_private_redis_that_is_killed_is_replaced(tmp_path: Path, videos: Path) -> None:
    listener, server = Listener(), EmbeddedRedis(tmp_path)
    publisher = publisher_at(tmp_path, videos, server, listener)
    wait_until(lambda: alive_at(tmp_path))
    first = int(at_private(tmp_path).info("server")["process_id"])
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gone([first], 5) and alive_at(tmp_path))
    publisher.close("finished", "", 5000)
    wait_until(lambda: not (tmp_path / SOCKET).is_symlink())


def test_closing_does_not_wait_for_an_unreachable_redis(tmp_path: Path, videos: Path) -> None:
    listener = Listener()
    publisher = publisher_at(tmp_path, videos, RedisAccess("redis://127.0.0.1:1"), listener)
    publisher.line(LINE)
    wait_until(lambda: listener.warnings)
    publisher.close("failed", "a\nreason", 3)
    assert len(listener.warnings) == 1
    seen = list_runs(tmp_path)[0]
    assert (seen.state, seen.status.message) == ("failed", "a reason")
