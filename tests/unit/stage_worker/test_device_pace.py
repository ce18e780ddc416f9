"""The host stays at most two ticks ahead of a GPU, and waits no longer than the deadline."""

import pytest
import torch

from common.errors import PeerError
from stage_worker.device_pace import DevicePace


class Event:
    """Done once it was asked for three times."""

    questions = 3

    def __init__(self) -> None:
        self.left = 0

    def record(self) -> None:
        self.left = self.questions

    def query(self) -> bool:
        self.left = max(0, self.left - 1)
        return not self.left


@pytest.fixture
def _events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)


@pytest.mark.usefixtures("_events")
def test_a_tick_begins_when_the_one_before_the_last_is_done() -> None:
    pace = DevicePace(torch.device("cuda", 0), 1, 20.0)
    for tick in range(4):
        pace.begin(tick)
        assert pace._ends[tick % 2].query()
        assert tick == 0 or not pace._ends[(tick - 1) % 2].query()  # the last tick need not be done
        pace.end(tick)


@pytest.mark.usefixtures("_events")
def test_a_gpu_that_is_stuck_is_an_error_with_stage_and_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "questions", 10**9)
    pace = DevicePace(torch.device("cuda", 0), 1, 0.05)
    for tick in range(2):
        pace.begin(tick)
        pace.end(tick)
    with pytest.raises(PeerError, match=r"stage 1, tick 2: the GPU has not done tick 0 within 0\.05 s"):
        pace.begin(2)


def test_on_the_cpu_there_is_no_pace() -> None:
    pace = DevicePace(torch.device("cpu"), 0, 20.0)
    pace.begin(0)
    pace.end(0)
