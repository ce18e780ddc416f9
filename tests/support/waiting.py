"""Waiting, with a deadline."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil


def wait_until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """What it returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def gone(pids: Sequence[int], timeout: float) -> bool:
    """Whether all processes end within `timeout` seconds."""
    end = time.monotonic() + timeout
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:  # also when it ended just now
        return False
