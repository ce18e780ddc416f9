"""Child processes that are stopped (SIGSTOP)."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from coordinator.launch import stopped_children
from coordinator.launch.stopped_children import StoppedChildren
from tests.support.waiting import wait_until


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two children, the second of which is stopped."""
    monkeypatch.setattr(stopped_children, "_EVERY", 0.02)
    found = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    found[1].send_signal(signal.SIGSTOP)
    yield found
    for sleeper in found:
        sleeper.kill()
        sleeper.wait()


def after_poll(watch: StoppedChildren, child: subprocess.Popen[bytes], *, ended: bool) -> int | None:
    """The exit code of a child, or None, after it was looked at."""
    watch.poll([child.pid], ended)
    return child.poll()


def test_a_stopped_child_is_killed_once_another_has_ended(sleepers: list[subprocess.Popen[bytes]]) -> None:
    running, stopped = sleepers
    watch = StoppedChildren(60)
    watch.poll([running.pid, stopped.pid], False)
    assert stopped.poll() is None
    assert wait_until(lambda: after_poll(watch, stopped, ended=True), 5) == -9
    assert running.poll() is None


def test_a_child_that_stays_stopped_is_killed(sleepers: list[subprocess.Popen[bytes]]) -> None:
    running, stopped = sleepers
    watch = StoppedChildren(0.1)
    assert wait_until(lambda: after_poll(watch, stopped, ended=False), 5) == -9
    watch.poll([running.pid], False)
    assert running.poll() is None
