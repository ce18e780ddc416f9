"""The limit of restarts."""

import pytest

from coordinator.launch import launcher


def test_restarts_are_limited_per_hour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr("coordinator.launch.launcher.time.monotonic", lambda: now)
    budget = launcher.Budget(2)
    assert [budget.take(attempt) for attempt in range(3)] == [True, True, False]
    assert "recovery.restarts allows 2 per hour" in capsys.readouterr().err
    now += 3601
    assert budget.take(3)
    assert not launcher.Budget(0).take(0)
