"""The limit of restarts, and who is to blame for the end of a run."""

import signal

import pytest

from common.errors import ConfigError, PeerError
from common.processes.layout import Layout
from coordinator.launch import launcher
from coordinator.launch.children import Exit


def test_restarts_are_limited_per_hour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr("coordinator.launch.launcher.time.monotonic", lambda: now)
    budget = launcher.Budget(2, "the last checkpoint")
    assert [budget.take(attempt) for attempt in range(3)] == [True, True, False]
    assert "recovery.restarts allows 2 per hour" in capsys.readouterr().err
    now += 3601
    assert budget.take(3)
    assert not launcher.Budget(0, "the last checkpoint").take(0)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(1, PeerError.code, 0.0), (0, ConfigError.code, 0.1)], ConfigError.code),  # though its loss was seen first
        ([(1, PeerError.code, 0.0), (2, -signal.SIGKILL, 0.1)], 1),
        ([(1, PeerError.code, 0.0), (0, 7, 9.0)], 1),  # it failed at being ended
        ([(1, 7, 0.0), (0, -signal.SIGTERM, 0.1)], 7),  # the launcher ended it
    ],
)
def test_the_cause_of_a_run_s_end_gives_the_exit_code(ends: list[tuple[int, int, float]], code: int) -> None:
    exits = [Exit(rank, 100 + rank, ended, time) for rank, ended, time in ends]
    assert launcher._report_failures(exits, Layout(2)) == code


def test_a_killed_stage_of_a_replica_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    launcher._report_failures([Exit(4, 100, -signal.SIGKILL, 0.0)], Layout(2, replicas=2))
    assert "stage 1 of replica 1 (pid 100) was killed by SIGKILL" in capsys.readouterr().err
    launcher._report_failures([Exit(6, 100, -signal.SIGKILL, 0.0)], Layout(2, replicas=2))
    assert "reader 1 (pid 100) was killed by SIGKILL" in capsys.readouterr().err
