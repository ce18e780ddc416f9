"""Stage calls are handled at once in their own thread, or one after another in the main thread."""

import inspect
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import PeerError
from common.messages.snapshot import Snapshot
from common.messages.stage_calls import StageCalls, handling
from common.messages.stage_rpc import _answer, serve
from stage_worker.reporting.reporter import Reporter
from stage_worker.service import StageService
from stage_worker.worker import Worker
from tests.support import members

CALLS = [name for name, _ in inspect.getmembers(StageCalls, inspect.isfunction) if not name.startswith("_")]


class Unwatched:
    """The coordinator is not watched."""

    verbose = True

    def allow_exit(self) -> None: ...


class Silent:
    """A reporter that reports nothing."""

    def __init__(self) -> None:
        self.coordinator = Unwatched()

    def tell_signal(self) -> None: ...


def worker(depth: int = 3) -> Worker:
    """The last of three workers."""
    me = members.stage(2, stages=3).arranged(1, depth)
    return Worker(me, [cast(Reporter, Silent()) for _ in me.held])


def test_every_stage_call_has_a_handling_and_is_implemented_with_its_signature() -> None:
    for name in CALLS:
        together = handling(name).together
        assert hasattr(Worker, name) == together
        assert hasattr(StageService, name) == (not together)
        own, described = getattr(Worker if together else StageService, name), getattr(StageCalls, name)
        assert list(inspect.signature(own).parameters) == list(inspect.signature(described).parameters), name


def test_concurrent_calls_are_answered_at_once() -> None:
    found = worker()
    [clock] = found.handle("clock", [2], (), {})  # although its main thread is not running
    assert clock > 0
    found.handle("expect_coordinator_exit", [2], (), {})
    assert not found.held[0].reporter.coordinator.verbose
    assert found.held[0].reporter.coordinator.run_ends
    in_rpc_thread = {name for name in CALLS if handling(name).in_rpc_thread}
    assert in_rpc_thread >= {"stop_at", "checkpoint_written", "probe_result", "trace_rows"}


def test_other_calls_run_one_after_another_in_the_main_thread() -> None:
    found = worker()
    threads: list[str] = []
    found.held[0].set_rate = lambda rate: threads.append(threading.current_thread().name)  # type: ignore[method-assign]
    callers = [threading.Thread(target=found.handle, args=("set_rate", [2], (0.1,), {})) for _ in range(3)]
    callers.append(threading.Thread(target=found.handle, args=("quit", [2], (5,), {})))
    for caller in callers[:3]:
        caller.start()
    while found._work.qsize() < 3:
        pass
    callers[3].start()
    assert found.run() == 5
    for caller in callers:
        caller.join()
    assert threads == [threading.current_thread().name] * 3


def test_a_failed_call_is_answered_with_its_message() -> None:
    found = worker()

    def fail(*arguments: Any) -> None:
        raise PeerError("stage 1 gives another shape")

    found.held[0].clock = fail  # type: ignore[method-assign, assignment]
    serve(found)
    assert _answer("clock", [2], (), {}) == ("error", "stage 1 gives another shape")
    assert _answer("nothing", [2], (), {})[0] == "error"


def test_a_worker_of_several_stages_answers_for_each_that_is_asked() -> None:
    found = worker(depth=6)
    assert [stage.me.stage for stage in found.held] == [4, 5]
    for number, stage in enumerate(found.held):
        stage.clock = lambda number=number: number  # type: ignore[method-assign, misc]
    assert found.handle("clock", [4, 5], (), {}) == [0, 1]
    assert found.handle("clock", [5], (), {}) == [1]


def test_the_place_named_in_errors_is_the_stage() -> None:
    assert worker().place == "stage 2"
    assert worker(depth=6).place == "stage 4 and stage 5"


@pytest.mark.parametrize("name", ["built"])
def test_calls_before_configure_are_an_error(name: str) -> None:
    with pytest.raises(AssertionError, match="call configure first"):
        getattr(worker().held[0], name)


def test_a_snapshot_that_cannot_be_loaded_is_answered_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = worker().held[0]
    config = SimpleNamespace(recovery=SimpleNamespace(heals=True))
    stage._built = cast(Any, SimpleNamespace(stage=SimpleNamespace(config=config), loop=SimpleNamespace(tick=0)))
    stage.use_snapshot_folder(tmp_path)
    source = Snapshot(7, False, 0, 2)
    (tmp_path / "stage2-0.7").write_bytes(b"x" * 100)
    sources = [None, None, source]
    assert stage.resume_from_snapshot(sources, 9).startswith(
        "stage 2: the snapshot of tick 7 cannot be restored (Error while"
    )
    monkeypatch.setattr("stage_worker.snapshots.load_file", lambda path: {})
    monkeypatch.setattr("stage_worker.checkpoint.load_own", lambda *arguments: None)
    monkeypatch.setattr("stage_worker.checkpoint.load_memories", lambda *arguments: None)
    assert stage.resume_from_snapshot(sources, 9) == ""
    assert stage.resume_from_snapshot([], 9) == ""
