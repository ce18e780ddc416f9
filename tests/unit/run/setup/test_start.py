"""What a run does with snapshots that its stages cannot load. The rest: tests/faults/test_recovery.py."""

from typing import Any, cast

import pytest

from common.errors import PeerError
from common.messages.snapshot import Snapshot
from common.messages.stage_rpc import Stages
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.run.setup.start import _check_restored

SOURCES = [Snapshot(100, False, 0, 0), Snapshot(104, True, 0, 1), None]


class Log:
    """The stages, and the coordinator's folder: they note what is to be forgotten."""

    def __init__(self) -> None:
        self.everywhere: list[tuple[str, int]] = []
        self.here: list[tuple[str, int]] = []

    def call_all(self, call: Any, name: str, tick: int) -> None:
        assert call.__name__ == "forget_copies"
        self.everywhere.append((name, tick))

    def forget(self, name: str, tick: int) -> None:
        self.here.append((name, tick))


def check(log: Log, sources: list[Snapshot | None], reasons: list[str]) -> None:
    _check_restored(cast(Stages, log), cast(RunSnapshots, log), sources, reasons)


def test_no_snapshot_that_cannot_be_loaded_is_chosen_again() -> None:
    log = Log()
    with pytest.raises(PeerError, match=r"^stage 1: it is truncated: the next attempt goes on from an older one, or"):
        check(log, SOURCES, ["", "stage 1: it is truncated", ""])
    assert log.here == log.everywhere == [("stage1-0-last", 104)]


@pytest.mark.parametrize("sources", [SOURCES, []])
def test_those_that_can_be_loaded_are_kept(sources: list[Snapshot | None]) -> None:
    log = Log()
    check(log, sources, ["", "", ""])
    assert log.here == log.everywhere == []
