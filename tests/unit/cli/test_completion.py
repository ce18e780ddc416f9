"""Shell completion of run names, as a shell asks for it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.run_registry.store import Keys
from coordinator.__main__ import app
from coordinator.registry.embedded_redis import EmbeddedRedis


def complete(line: str) -> set[str]:
    """What bash offers at the end of the line."""
    number = len(line.split(" ")) - 1
    asked = {"_SIDEWAYS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(number)}
    return set(CliRunner().invoke(app, [], env=asked, prog_name="sideways").output.split())


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name in ("runs/digits-1", "runs/digits-2", "runs/actions", "others/far"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").touch()
    (tmp_path / "runs/no-run").mkdir()


@pytest.mark.parametrize("command", ["status", "top", "pause", "resume", "checkpoint", "stop", "set", "trace"])
def test_run_names_are_completed(command: str) -> None:
    assert complete(f"sideways {command} ") == {"digits-1", "digits-2", "actions"}


def test_only_those_that_begin_so_are_offered() -> None:
    assert complete("sideways status dig") == {"digits-1", "digits-2"}


def test_another_folder_of_runs_counts() -> None:
    assert complete("sideways status --runs others ") == {"far"}


def test_runs_of_other_hosts_are_in_redis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    monkeypatch.setenv("REDIS_URL", server.access().shown)
    server.access().connect().zadd(Keys.RUNS, {"afar": 1.0})
    assert complete("sideways stop a") == {"actions", "afar"}
    server.close()


def test_a_redis_that_does_not_answer_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/none")
    assert "actions" in complete("sideways stop a")
