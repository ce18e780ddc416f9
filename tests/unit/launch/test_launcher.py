"""The limit of restarts, who is to blame for the end of a run, and when a run that is to stop is restarted first."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import ConfigError, PeerError
from common.processes.layout import Layout
from common.processes.snapshot_folder import SNAPSHOTS
from coordinator.launch import launcher
from coordinator.launch.attempt import LAUNCH, RESTARTS
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


STOP, STOPPED = signal.SIGTERM, 128 + signal.SIGTERM
LOST = [-signal.SIGKILL, PeerError.code]  # a stage was killed, and its peers noticed it


@pytest.mark.parametrize(
    ("attempts", "kept", "code"),
    [
        ([(0, [0, 0])], True, 0),
        ([(STOP, [STOPPED, STOPPED])], True, STOPPED),
        ([(0, LOST), (0, [0, 0])], True, 0),
        ([(STOP, LOST)], False, STOPPED),  # nothing is in memory
        ([(STOP, LOST), (STOP, [STOPPED, STOPPED])], True, STOPPED),
        ([(STOP, LOST), (STOP, LOST)], True, STOPPED),  # once is enough
        ([(0, LOST), (STOP, LOST), (STOP, [STOPPED])], True, STOPPED),
        ([(STOP, [STOPPED, -signal.SIGKILL])], True, STOPPED),  # a second Ctrl-C ended it at once
        ([(signal.SIGQUIT, [-signal.SIGQUIT, -signal.SIGQUIT])], True, 128 + signal.SIGQUIT),
        ([(0, LOST)] * 3, True, 1),
    ],
)
def test_a_run_that_is_to_stop_after_a_loss_first_saves_what_is_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempts: list[tuple[int, list[int]]], kept: bool, code: int
) -> None:
    """Of each attempt: the signal by which the launcher was asked to stop so far, and the processes' exit codes."""
    made: list[tuple[int, bool]] = []

    def children(held: Any, deadline: float, caller: int | None, stopped: int, from_memory: bool) -> Any:
        made.append((stopped, from_memory))
        signalled, codes = attempts[len(made) - 1]
        if kept:
            (tmp_path / "stage0-0.20").touch()
        failures = [Exit(rank, 100 + rank, ended, 0.0) for rank, ended in enumerate(codes) if ended]
        return SimpleNamespace(stopped=stopped or signalled, failures=failures, finished=codes[0] == 0)

    monkeypatch.setattr(launcher, "Children", children)
    monkeypatch.setattr(launcher, "HeldSignals", nullcontext)
    monkeypatch.setattr(launcher, "_snapshots", nullcontext)
    for name in ("_attempt", "import_before_fork", "become_parent"):
        monkeypatch.setattr(launcher, name, lambda *arguments: None)
    for name in (LAUNCH, RESTARTS):
        monkeypatch.setitem(os.environ, name, "")  # restored afterwards
    monkeypatch.setenv(SNAPSHOTS, str(tmp_path))
    supervision = launcher.Supervision(restarts=2, snapshots=True)
    assert launcher.launch(lambda: None, Layout(1), supervision) == code
    before = [signalled for signalled, _ in attempts[:-1]]
    assert made == [(0, False), *((signalled, kept) for signalled in before)]
