"""What a run saves before its first tick, and before it ends without one."""

import signal
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from common.config.run_file import parse
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.resume import StartPoint
from coordinator.run.evaluation_phase import EvaluationPhase
from coordinator.run.setup.prepared import Prepared
from coordinator.run.state import RunState
from coordinator.run.stop_request import StopRequest
from coordinator.run.training import Training
from tests.support.settings import settings

TICKS = 9


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, log: list[str]) -> Any:
    """A run without processes, which logs what it saves."""

    def model(tensors: Any, config: Any, classes: Any, tick: int) -> None:
        log.append(f"model {tick}")

    def checkpoint(position: Position) -> None:
        log.append(f"checkpoint {position.tick}")

    made = MagicMock(probe=None, snapshots=None, lost_at=None, overdue=False)
    made.state = RunState(parse(settings(tmp_path, split=[3, 5]), "test"), StopRequest(), TICKS)
    made.datasets.fingerprint, made.datasets.val, made.feed.places.return_value = "abc", None, []
    made.directory.save_model.side_effect, made.saver.save.side_effect = model, checkpoint
    return made


def starts(run: Any, point: StartPoint) -> Training:
    run.start, run.state.tick, run.state.saved_tick = point, point.tick, point.saved_tick
    return Training(cast(Prepared, run))


def on_disk(tick: int) -> StartPoint:
    return StartPoint(tick, folder=Path("checkpoint"))


def in_memory(tick: int) -> StartPoint:
    return StartPoint(tick, in_memory=True)


def healed(tick: int) -> StartPoint:
    """From memory, but for a stage that had to take the checkpoint."""
    return StartPoint(tick, folder=Path("checkpoint"), in_memory=True)


@pytest.mark.parametrize(
    ("point", "saved"),
    [
        (on_disk(TICKS), ["model 9"]),  # the model may not have been written any more
        (in_memory(TICKS), ["model 9", "checkpoint 9"]),
        (healed(TICKS), ["model 9", "checkpoint 9"]),
    ],
)
def test_what_was_resumed_from_memory_after_the_last_tick_is_saved_before_the_run_ends(
    run: Any, log: list[str], point: StartPoint, saved: list[str]
) -> None:
    starts(run, point).run()
    assert log == saved


@pytest.mark.parametrize(
    ("point", "saved"),
    [
        (StartPoint(), []),
        (on_disk(5), []),
        (in_memory(5), ["model 5", "checkpoint 5"]),
        (healed(5), ["model 5", "checkpoint 5"]),
    ],
)
def test_what_was_resumed_from_memory_is_saved_when_a_stop_came_before_the_next_tick(
    run: Any, log: list[str], point: StartPoint, saved: list[str]
) -> None:
    run.state.stop.note(signal.SIGTERM)
    starts(run, point).run()
    assert log == saved


@pytest.mark.parametrize(("point", "saved"), [(on_disk(5), []), (in_memory(5), ["checkpoint 5"])])
def test_what_was_resumed_from_memory_is_saved_before_an_evaluation_that_is_due(
    run: Any, log: list[str], monkeypatch: pytest.MonkeyPatch, point: StartPoint, saved: list[str]
) -> None:
    def evaluate(phase: EvaluationPhase) -> None:
        log.append("evaluation")
        run.state.stop.note(signal.SIGTERM)

    monkeypatch.setattr(EvaluationPhase, "run", evaluate)
    run.overdue = True
    starts(run, point).run()
    assert log == ["model 5", *saved, "evaluation"]
