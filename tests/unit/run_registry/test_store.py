"""Runs in Redis, on a real server."""

import json

import pytest
import redis

from common.run_registry.records import (
    MOST_COMMAND,
    Answer,
    Owner,
    encode_line,
)
from common.run_registry.redis_connection import RedisAccess
from common.run_registry.store import ALIVE, METRICS, Keys, RunWriter, Store
from tests.support.records import HERE, command, status_of


@pytest.fixture
def client(access: RedisAccess) -> "redis.Redis":
    client = access.connect()
    client.flushall()
    return client


def test_readers_see_what_a_run_publishes(client: "redis.Redis") -> None:
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


def test_a_command_is_delivered_once_and_answered(client: "redis.Redis") -> None:
    store = Store(client)
    store.send_command("it", command("stop"))  # for an earlier run
    station = RunWriter(client, "it", HERE, anew=True)
    sent, withdrawn = command("set", lr=0.5), command("stop")
    store.send_command("it", sent)
    store.withdraw_command("it", store.send_command("it", withdrawn))
    assert station.exchange(status_of(), [], {}) == [sent]
    assert store.answer("it", sent) is None
    done = Answer(state="done", text="at tick 7")
    assert station.exchange(status_of(), [], {sent.id: done}) == []
    assert store.answer("it", sent) == done


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b'{"id":"x","do":"stop"}', b'{"do":"stop","id":"' + b"a" * 2 * MOST_COMMAND, b"{" * 3000]
    + [json.dumps({"id": "0" * 32, "do": "set", "lr": lr}).encode() for lr in (-1, "1", None, float("nan"), True)]
    + [json.dumps({"id": "0" * 32, "do": do}).encode() for do in ("kill", "set", 7)],
)
def test_a_malformed_command_is_refused(client: "redis.Redis", data: bytes) -> None:
    station, good = RunWriter(client, "it", HERE, anew=True), command()
    client.xadd(Keys("it").commands, {b"json": data})
    Store(client).send_command("it", good)
    refused, accepted = station.exchange(status_of(), [], {})
    assert isinstance(refused, str)
    assert accepted == good


def test_the_history_is_capped_and_truncated_on_resume(client: "redis.Redis") -> None:
    station = RunWriter(client, "it", HERE, anew=True)
    total = METRICS + 1500
    for first in range(0, total, 500):
        lines = [encode_line({"kind": "progress", "tick": tick}) for tick in range(first, first + 500)]
        station.exchange(status_of(), lines, {})
    held = client.xlen(Keys("it").metrics)
    assert METRICS <= held <= METRICS + 200  # Redis removes whole nodes
    RunWriter(client, "it", HERE, anew=False).truncate_from(total - 100, evaluated=True)
    assert client.xlen(Keys("it").metrics) == held - 100
    assert Store(client).metrics("it", 1)[0]["tick"] == total - 101
    RunWriter(client, "it", HERE, anew=True)
    assert client.xlen(Keys("it").metrics) == 0


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_history_keeps_what_a_resumed_run_does_not_write_again(client: "redis.Redis", evaluated: bool) -> None:
    writer = RunWriter(client, "it", HERE, anew=True)
    kinds = [("progress", 9), ("evaluation", 10), ("set", 10), ("progress", 10), ("evaluation", 20), ("restart", 30)]
    writer.exchange(status_of(), [encode_line({"kind": kind, "tick": tick}) for kind, tick in kinds], {})
    writer.truncate_from(10, evaluated)
    kept = [(line["kind"], line["tick"]) for line in Store(client).metrics("it", 9)]
    at = [("evaluation", 10)] if evaluated else []
    assert kept == [("progress", 9), *at, ("set", 10), ("restart", 30)]


def test_a_second_live_run_of_the_same_name_gets_another_name(client: "redis.Redis") -> None:
    first = RunWriter(client, "it", HERE, anew=True)
    first.exchange(status_of(), [], {})
    elsewhere = Owner(host="there", directory="/runs/it", pid=1)
    assert RunWriter(client, "it", elsewhere, anew=True).name == "it-1"
    assert RunWriter(client, "it", HERE, anew=False).name == "it"  # itself, resumed
    first.leave()
    assert RunWriter(client, "it", elsewhere, anew=True).name == "it"


# ---- reaching it


# ---- a private server


# ---- the publisher


# ---- the views
