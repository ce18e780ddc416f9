"""A checkpoint that takes too long is told once."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from coordinator.checkpoint import Checkpoints
from coordinator.keeper import Keeper
from tests.unit.test_checkpoint import position


class Slow:
    """Stages that write until they are let."""

    def __init__(self) -> None:
        self.written: Future[list[None]] = Future()

    def snapshot(self, part: Path, tick: int) -> "Slow":
        return self

    def answers(self) -> list[None]:
        return self.written.result(10)


def made(run: Path) -> tuple[Keeper, Slow, list[str]]:
    stages, warned = Slow(), list[str]()
    keeper = Keeper(Checkpoints(run, keep=2), cast(Any, stages), warned.append)
    keeper.save(position(10))
    for _ in range(3):
        keeper.finish(lambda: 0.05, lambda: None)
    assert keeper.failed == 1
    assert len(warned) == 1
    assert "tick 10 could not be kept" in warned[0]
    return keeper, stages, warned


def test_a_late_one_that_fails_is_counted_once(tmp_path: Path) -> None:
    keeper, stages, warned = made(tmp_path)
    stages.written.set_exception(OSError("no disk"))
    _end(keeper)
    assert (keeper.kept, keeper.failed, len(warned)) == (0, 1, 1)


def test_a_late_one_may_be_kept_after_all(tmp_path: Path) -> None:
    keeper, stages, _ = made(tmp_path)
    stages.written.set_result([])
    _end(keeper)
    assert (keeper.kept, keeper.failed) == (1, 0)
    keeper.save(position(20))
    keeper.finish(lambda: 5, lambda: None)
    assert (keeper.kept, keeper.failed) == (2, 0)


def test_the_wait_is_shorter_once_the_run_is_to_stop(tmp_path: Path) -> None:
    warned, limits = list[str](), [1800.0]
    keeper = Keeper(Checkpoints(tmp_path, keep=2), cast(Any, Slow()), warned.append)
    keeper.save(position(10))
    keeper.finish(lambda: limits[-1], lambda: limits.append(0.05))
    assert "writing it took longer than 0.05 s" in warned[0]


def test_one_that_is_dropped_is_not_committed(tmp_path: Path) -> None:
    stages = Slow()
    keeper = Keeper(Checkpoints(tmp_path, keep=2), cast(Any, stages), lambda text: None)
    keeper.save(position(10))
    keeper.drop()
    stages.written.set_result([])
    _end(keeper)
    assert (keeper.kept, keeper.failed) == (0, 1)
    assert not list((tmp_path / "checkpoints").iterdir())


def _end(keeper: Keeper) -> None:
    saving = keeper._saving
    assert saving is not None
    saving._thread.join(5)
    keeper.look()
