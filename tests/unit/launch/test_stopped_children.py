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


def after_poll(watch: StoppedChildren, child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a child, or None, after the children were looked at."""
    watch.poll()
    return child.poll()


def test_a_stopped_child_is_killed_once_another_has_ended(sleepers: list[subprocess.Popen[bytes]]) -> None:
    running, stopped = sleepers
    watch = StoppedChildren(60)
    watch.poll()
    assert stopped.poll() is None
    running.kill()
    running.wait()
    assert wait_until(lambda: after_poll(watch, stopped), 5) == -9


def test_a_child_that_stays_stopped_is_killed(sleepers: list[subprocess.Popen[bytes]]) -> None:
    watch = StoppedChildren(0.1)
    assert wait_until(lambda: after_poll(watch, sleepers[1]), 5) == -9
    assert sleepers[0].poll() is None
