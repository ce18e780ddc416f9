"""Passing a run's events on to its listeners."""

import inspect
from typing import Any

from coordinator.monitor.broadcast import Broadcast
from coordinator.monitor.listener import LineListener, Listener, ProgressEvent
from coordinator.monitor.run_totals import RunTotals, StageTotals
from tests.support.reports import evaluation_event, progress, progress_event

EVENTS = [name for name, _ in inspect.getmembers(Listener, inspect.isfunction)]


class Recorder(Listener):
    """Records its calls."""

    def __init__(self, name: str, log: list[Any]) -> None:
        for event in EVENTS:
            setattr(self, event, lambda *arguments, event=event: log.append((name, event, arguments)))


def test_every_listener_gets_every_event_in_order() -> None:
    log: list[Any] = []
    broadcast = Broadcast(Recorder("first", log))
    broadcast.add(Recorder("second", log))
    for event in EVENTS:
        arguments = tuple(range(len(inspect.signature(getattr(Listener, event)).parameters) - 1))
        log.clear()
        getattr(broadcast, event)(*arguments)
        order = ["second", "first"] if event == "close" else ["first", "second"]
        assert log == [(name, event, arguments) for name in order]


class Lines(LineListener):
    """Collects lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def line(self, line: dict[str, Any], **status: Any) -> None:
        self.lines.append((line, status))


def test_the_runs_learning_rate_is_that_of_the_top_stage() -> None:
    """Those of the others are divided, as they have a mismatch."""
    listener, totals = Lines(), RunTotals([StageTotals() for _ in range(3)], slots=4)
    for stage, rate in ((2, 1e-3), (0, 2e-4), (1, 3e-4)):
        report = progress(stage=stage, rate=rate)
        totals.add(report)
        listener.progress(ProgressEvent.of(report, totals))
    assert [status.get("learning_rate") for _, status in listener.lines] == [1e-3, None, None]


def test_events_become_lines_of_metrics_jsonl() -> None:
    listener = Lines()
    listener.progress(progress_event(tick=4, rate=0.5))
    listener.progress(progress_event(tick=5, rate=None))
    listener.evaluated(evaluation_event(6, {"val_top1": 0.5}))
    listener.probed({"tick": 7, "stages": []})
    listener.rate_changed(8, 0.25)
    listener.restarted(9, 2, 4.5)
    listener.healed(10, {1: 15})
    assert [(line["kind"], line["tick"]) for line, _ in listener.lines] == [
        ("progress", 4), ("progress", 5), ("evaluation", 6), ("probe", 7), ("set", 8), ("restart", 9),
        ("heal", 10),
    ]  # fmt: skip
    assert [status for _, status in listener.lines] == [
        {"tick": 5, "loss": None, "accuracy": None, "learning_rate": 0.5},
        {"tick": 6, "loss": None, "accuracy": None},
        {"evaluation": {"val_top1": 0.5}},
        {},
        {},
        {},
        {},
    ]
    assert listener.lines[2][0] == {"kind": "evaluation", "tick": 6, "train_seconds": 1.0, "val_top1": 0.5}
    assert listener.lines[5][0] == {"kind": "restart", "tick": 9, "restarts": 2, "recovery_seconds": 4.5}
    assert listener.lines[6][0] == {"kind": "heal", "tick": 10, "lost_ticks": {"1": 15}}
