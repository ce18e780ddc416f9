"""Finding runs: by name or directory, alive or not, also where records are of another version."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import SidewaysError
from common.run_registry.records import Owner, Status
from common.run_registry.store import RunWriter
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis
from coordinator.registry.run_finder import find, get_run, list_runs
from tests.support.records import status_of


def directory_of(folder: Path, **fields: Any) -> Status:
    """Make a run directory with the last status of its run."""
    folder.mkdir(parents=True)
    owner = Owner(host="here", directory=str(folder.resolve()), pid=1)
    status = status_of(name=folder.name, owner=owner, **fields)
    (folder / "status.json").write_bytes(status.encode())
    return status


def test_a_directory_stands_for_its_own_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others, of other directories or hosts, may have its name in the same Redis."""
    server = EmbeddedRedis(tmp_path)
    access = server.access()
    monkeypatch.setenv("REDIS_URL", access.shown)
    for place in ("a", "b"):
        status = directory_of(tmp_path / place / "it")
        writer = RunWriter(access.connect(), "it", status.owner, anew=True)
        status = status.model_copy(update={"name": writer.name})
        writer.exchange(status, [], {})
        (tmp_path / place / "it/status.json").write_bytes(status.encode())
    directory_of(tmp_path / "c/it")
    quiet = tmp_path / "d/it"
    quiet.mkdir(parents=True)
    (quiet / ".lock").touch()
    found = [find(str(tmp_path / place / "it"), tmp_path / "runs") for place in "abc"]
    assert [each and each.name for each in found] == ["it", "it-1", None]
    assert get_run("it", tmp_path / "runs").status.owner.directory == str(tmp_path / "a/it")
    assert get_run("it", tmp_path / "b").status.owner.directory == str(tmp_path / "b/it")
    with pytest.raises(SidewaysError, match=r"publishes nothing \(report.redis = false\)"):
        find(str(quiet), tmp_path / "runs")
    server.close()


def test_a_run_whose_processes_were_all_killed_is_lost(tmp_path: Path) -> None:
    directory_of(tmp_path / "it", tick=70)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "it" / SOCKET))
    assert find("it", tmp_path) is None
    seen = get_run("it", tmp_path)
    assert (seen.state, seen.status.tick) == ("lost", 70)
    assert [info.state for info in list_runs(tmp_path)] == ["lost"]


@pytest.mark.parametrize(("state", "age", "shown"), [
    ("starting", 1, "starting"), ("restarting", 1, "restarting"), ("restarting", 60, "lost"), ("running", 1, "lost"),
    ("failed", 60, "failed"),
])  # fmt: skip
def test_between_two_attempts_a_run_is_not_lost(tmp_path: Path, state: Any, age: float, shown: str) -> None:
    directory_of(tmp_path / "it", state=state, updated=time.time() - age)
    assert get_run("it", tmp_path).state == shown


def test_a_record_of_another_version_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedRedis(tmp_path)
    client = server.access().connect()
    monkeypatch.setenv("REDIS_URL", server.access().shown)
    for name in ("old", "good"):
        RunWriter(client, name, status_of().owner, anew=True).exchange(status_of(name=name), [], {})
    client.set("sideways:run:old:status", json.dumps({"newer": 1}))
    directory_of(tmp_path / "runs/here")
    directory_of(tmp_path / "runs/other")
    (tmp_path / "runs/other/status.json").write_text('{"newer": 1}')
    warnings: list[str] = []
    names = [info.status.name for info in list_runs(tmp_path / "runs", warnings.append)]
    assert sorted(names) == ["good", "here"]
    assert "old: a Status in Redis is malformed" in warnings[0]
    assert f"a Status in {tmp_path}/runs/other/status.json is malformed" in warnings[1]
    with pytest.raises(SidewaysError, match=r"there is no run 'none'\. Known runs: "):
        find("none", tmp_path / "runs")
    server.close()
