"""The checkpoint from which a run resumes."""

from pathlib import Path

import pytest

from common.errors import SidewaysError
from coordinator.checkpoints.resume import find_checkpoint
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, keep, position


def test_without_checkpoints_a_resume_is_refused_and_a_restart_begins_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    warnings: list[str] = []
    with pytest.raises(SidewaysError, match="has no checkpoint to resume from"):
        find_checkpoint(checkpoints, SHAPES, 9, False, warnings.append)
    assert find_checkpoint(checkpoints, SHAPES, 9, True, warnings.append) is None
    keep(checkpoints, position(9))
    with pytest.raises(SidewaysError, match="has completed 9 of 9 ticks: to train further, raise ticks"):
        find_checkpoint(checkpoints, SHAPES, 9, False, warnings.append)
    for planned, again in ((10, False), (9, True)):  # a restart: what follows the last tick was lost
        found = find_checkpoint(checkpoints, SHAPES, planned, again, warnings.append)
        assert found is not None
        assert found[1].tick == 9
