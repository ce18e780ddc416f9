"""Where a resumed run begins."""

from pathlib import Path

import pytest

from common.errors import SidewaysError
from coordinator.checkpoints.resume import find_checkpoint
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, keep, position


def test_a_run_without_checkpoints_cannot_go_on_but_by_itself_begins_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    told: list[str] = []
    with pytest.raises(SidewaysError, match="has no checkpoint to resume from"):
        find_checkpoint(checkpoints, SHAPES, 9, False, told.append)
    assert find_checkpoint(checkpoints, SHAPES, 9, True, told.append) is None
    assert told == ["there is no checkpoint yet: the training starts from the beginning"]
    keep(checkpoints, position(9))
    with pytest.raises(SidewaysError, match="has done its 9 ticks of 9: raise ticks"):
        find_checkpoint(checkpoints, SHAPES, 9, False, told.append)
    for planned, again in ((10, False), (9, True)):  # by itself: what comes after the last tick was lost
        found = find_checkpoint(checkpoints, SHAPES, planned, again, told.append)
        assert found is not None
        assert found[1].tick == 9
