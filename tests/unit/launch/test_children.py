"""Forked processes: their environment and name, how they end, and how they are ended."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from common.errors import PeerError, SidewaysError
from common.processes.output import exit_now
from common.processes.stop_signals import note_stop_signals
from coordinator.launch import children as module
from coordinator.launch.children import Children
from coordinator.launch.held_signals import HeldSignals
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the test process has threads


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldSignals]:
    """Only SIGCHLD is held back: other threads of the test process would still receive the rest."""
    monkeypatch.setattr("coordinator.launch.held_signals.stop_signals", list)
    with HeldSignals() as signals:
        yield signals


def run(held: HeldSignals, processes: int, program: Callable[[int], None]) -> dict[int, int]:
    """The exit codes of those that failed, by rank. `program` gets the rank."""
    group = Children(held, 60)
    names = ["coordinator", *(f"stage{rank}" for rank in range(processes - 1))]
    group.start(lambda: program(int(os.environ["RANK"])), names, port=1)
    group.wait()
    group.end()
    assert group.stopped == 0
    assert not psutil.Process().children()
    return {ended.rank: ended.code for ended in group.failures}


def test_each_process_knows_its_rank_and_has_a_name(held: HeldSignals, tmp_path: Path) -> None:
    def write(rank: int) -> None:
        name = Path("/proc/self/comm").read_text().strip()
        variables = [os.environ[key] for key in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
        assert os.getsid(0) == os.getpid()
        (tmp_path / str(rank)).write_text(" ".join([name, *variables]))

    assert run(held, 3, write) == {}
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        "coordinator 3 0 127.0.0.1 1",
        "stage0 3 1 127.0.0.1 1",
        "stage1 3 2 127.0.0.1 1",
    ]
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9),
        (lambda: sys.exit(143), 143),
        (lambda: sys.exit("a message"), 1),
        (lambda: 1 // 0, 1),
    ],
)
def test_when_one_fails_the_others_are_ended(held: HeldSignals, fail: Callable[[], None], code: int) -> None:
    start = time.monotonic()
    assert run(held, 3, lambda rank: fail() if rank == 1 else time.sleep(60)) == {0: -15, 1: code, 2: -15}
    assert time.monotonic() - start < 10


def test_an_error_for_the_user_is_a_message(held: HeldSignals, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(rank: int) -> None:
        raise PeerError("a peer is gone")

    assert run(held, 1, fail) == {0: PeerError.code}
    assert capfd.readouterr().err == "sideways: a peer is gone\n"


def test_a_process_that_does_not_end_is_killed(held: HeldSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END", 0.5)

    def program(rank: int) -> None:
        if rank:
            sys.exit(1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    assert run(held, 2, program)[0] in (-9, -15)  # SIGTERM may come before it is ignored


def test_a_signal_while_the_others_are_ended_is_a_request_to_stop(
    held: HeldSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Children(held, 60)
    group.start(lambda: sys.exit(3) if os.environ["RANK"] == "1" else time.sleep(60), ["a", "b"], port=1)
    group.wait()
    assert [failure.code for failure in group.failures] == [3]
    assert group.stopped == 0
    with monkeypatch.context() as patch:
        patch.setattr(held, "take", lambda seconds: signal.SIGTERM)
        group.end()
    assert group.stopped == signal.SIGTERM
    assert not psutil.Process().children()


def test_when_one_cannot_be_started_the_others_are_ended(held: HeldSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    fork, forked = os.fork, [0]

    def limited() -> int:
        if len(forked) > 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        forked.append(fork())
        return forked[-1]

    monkeypatch.setattr(os, "fork", limited)
    group = Children(held, 60)
    with pytest.raises(SidewaysError, match=r"cannot start process 2 of the run: .*ulimit -u"):
        group.start(lambda: time.sleep(60), list("abcd"), port=1)
    group.end()
    assert len(group.failures) == 2
    assert not psutil.Process().children()


def test_a_run_is_done_once_its_coordinator_has_ended_in_order(
    held: HeldSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed then, or does not end."""
    monkeypatch.setattr(module, "_END", 0.5)
    for other in (lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: time.sleep(60)):
        group, start = Children(held, 60), time.monotonic()

        def program(other: Callable[[], None] = other) -> None:
            if os.environ["RANK"] == "1":
                time.sleep(0.3)
                other()

        group.start(program, ["coordinator", "stage0"], port=1)
        group.wait()
        group.end()
        assert group.finished
        assert time.monotonic() - start < 10
        assert [ended.rank for ended in group.failures] == [1]


def stopped(held: HeldSignals, tmp_path: Path, from_memory: bool, program: Callable[[], None]) -> list[int]:
    """The exit code of a process that is asked to stop once it runs `program`, if it failed."""
    group, begun = Children(held, 60, stopped=signal.SIGTERM, from_memory=from_memory), tmp_path / f"{from_memory}"

    def begin() -> None:
        begun.touch()
        program()

    group.start(begin, ["coordinator"], port=1)
    wait_until(begun.exists)
    group.wait()
    group.end()
    return [ended.code for ended in group.failures]


def test_a_stop_is_held_until_a_process_can_save_what_is_only_in_memory(held: HeldSignals, tmp_path: Path) -> None:
    def program() -> None:
        time.sleep(0.5)
        note_stop_signals(lambda number, frame: exit_now(number + 1 if frame is None else 0))

    assert stopped(held, tmp_path, True, program) == [signal.SIGTERM + 1]
    assert stopped(held, tmp_path, False, program) == [-signal.SIGTERM]


def test_a_process_that_holds_a_stop_for_too_long_is_ended(
    held: HeldSignals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be waiting for a peer that is lost."""
    monkeypatch.setattr("common.processes.stop_signals._MOST_HELD", 1)
    assert stopped(held, tmp_path, True, lambda: time.sleep(30)) == [-signal.SIGALRM]


def test_to_save_what_is_only_in_memory_a_process_has_more_time(
    held: HeldSignals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_END", 0.5)
    monkeypatch.setattr(module, "_RESUME", 20.0)

    def program() -> None:
        end = time.monotonic() + 1.5
        note_stop_signals(lambda number, frame: None)
        while time.monotonic() < end:
            time.sleep(0.1)

    assert stopped(held, tmp_path, True, program) == []
    monkeypatch.setattr(module, "_RESUME", 0.0)
    (tmp_path / "True").unlink()
    assert stopped(held, tmp_path, True, program) == [-signal.SIGKILL]
