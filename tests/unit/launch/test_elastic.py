"""How many restarts there may be."""

import pytest

from coordinator.launch import elastic


def test_restarts_are_counted_by_the_hour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr("coordinator.launch.elastic.time.monotonic", lambda: now)
    budget = elastic.Budget(2)
    assert [budget.take(attempt) for attempt in range(3)] == [True, True, False]
    assert "recovery.restarts allows 2 an hour: giving up" in capsys.readouterr().err
    now += 3601
    assert budget.take(3)
    assert not elastic.Budget(0).take(0)
