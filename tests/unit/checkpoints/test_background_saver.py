"""Checkpoints that take longer than the timeout."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from common.messages.stage_calls import StageCalls
from coordinator.checkpoints.background_saver import BackgroundSaver
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import position


class Slow:
    """Stages that keep writing until they are released."""

    def __init__(self) -> None:
        self.written: Future[list[None]] = Future()
        self.regrouped: list[bool] = []

    def call_all(self, call: object, part: Path, tick: int, regroup: bool) -> None:
        assert call is StageCalls.checkpoint
        self.regrouped.append(regroup)

    def begin(self, call: object, seconds: float) -> "Slow":
        assert call is StageCalls.checkpoint_written
        return self

    def answers(self) -> list[None]:
        return self.written.result(10)


def made(run: Path) -> tuple[BackgroundSaver, Slow, list[str]]:
    stages, warned = Slow(), list[str]()
    saver = BackgroundSaver(Checkpoints(run, keep=2), cast(Any, stages), warned.append)
    saver.save(position(10))
    for _ in range(3):
        saver.finish(lambda: 0.05, lambda: None)
    assert saver.failed == 1
    assert len(warned) == 1
    assert "tick 10 could not be saved" in warned[0]
    return saver, stages, warned


def test_a_late_checkpoint_that_fails_is_counted_once(tmp_path: Path) -> None:
    saver, stages, warned = made(tmp_path)
    stages.written.set_exception(OSError("no disk"))
    _end(saver)
    assert (saver.kept, saver.failed, len(warned)) == (0, 1, 1)


def test_a_late_checkpoint_may_still_be_kept(tmp_path: Path) -> None:
    saver, stages, _ = made(tmp_path)
    stages.written.set_result([])
    _end(saver)
    assert (saver.kept, saver.failed) == (1, 0)
    saver.save(position(20))
    saver.finish(lambda: 5, lambda: None)
    assert (saver.kept, saver.failed) == (2, 0)


def test_after_a_failure_the_stages_meet_anew(tmp_path: Path) -> None:
    saver, stages, _ = made(tmp_path)
    stages.written.set_exception(OSError("another stage was too late"))
    _end(saver)
    stages.written = Future()
    stages.written.set_result([])
    for tick in (20, 30):
        saver.save(position(tick))
        saver.finish(lambda: 5, lambda: None)
    assert stages.regrouped == [False, True, False]
    assert (saver.kept, saver.failed) == (2, 1)


def test_a_stopping_run_waits_less_for_a_checkpoint(tmp_path: Path) -> None:
    warned, limits = list[str](), [1800.0]
    saver = BackgroundSaver(Checkpoints(tmp_path, keep=2), cast(Any, Slow()), warned.append)
    saver.save(position(10))
    saver.finish(lambda: limits[-1], lambda: limits.append(0.05))
    assert "writing it took longer than 0.05 s" in warned[0]


def test_a_dropped_checkpoint_is_not_committed(tmp_path: Path) -> None:
    stages = Slow()
    saver = BackgroundSaver(Checkpoints(tmp_path, keep=2), cast(Any, stages), lambda text: None)
    saver.save(position(10))
    saver.discard()
    stages.written.set_result([])
    _end(saver)
    assert (saver.kept, saver.failed) == (0, 1)
    assert not list((tmp_path / "checkpoints").iterdir())


def _end(saver: BackgroundSaver) -> None:
    saving = saver._saving
    assert saving is not None
    saving._thread.join(5)
    saver.poll()
