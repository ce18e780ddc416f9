"""The host stays at most two ticks ahead of a GPU."""

import pytest
import torch

from stage_worker.device_pace import DevicePace


def test_a_tick_begins_when_the_one_before_the_last_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, int]] = []

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking  # the host sleeps instead of spinning
            self.tick = -1

        def record(self) -> None:
            self.tick = len([entry for entry in log if entry[0] == "done"])
            log.append(("done", self.tick))

        def synchronize(self) -> None:
            log.append(("wait", self.tick))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = DevicePace(torch.device("cuda", 0))
    for tick in range(4):
        pace.begin(tick)
        pace.end(tick)
    waits = [tick for what, tick in log if what == "wait"]
    assert waits == [-1, -1, 0, 1]  # nothing is waited for in the first two ticks


def test_on_the_cpu_there_is_no_pace() -> None:
    pace = DevicePace(torch.device("cpu"))
    pace.begin(0)
    pace.end(0)
