"""Waiting, with a deadline."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `condition` returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


def gone(pids: Sequence[int], timeout: float) -> bool:
    """Wait up to `timeout` seconds until all processes have ended. Returns whether they have."""
    end = time.monotonic() + timeout
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:  # it has just ended
        return False
