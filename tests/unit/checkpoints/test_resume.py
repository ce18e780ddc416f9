"""The checkpoint from which a run resumes."""

from pathlib import Path

import pytest

from common.errors import SidewaysError
from common.processes.caller import CALLER, how_to_resume
from coordinator.checkpoints.resume import find_checkpoint
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, keep, position


def test_a_run_that_python_started_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CALLER, str(tmp_path))
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(SidewaysError, match=r"start a new run, without resume=$"):
        find_checkpoint(checkpoints, SHAPES, 9, False, False, print)
    keep(checkpoints, position(9))
    with pytest.raises(SidewaysError, match=r"raise ticks or epochs as in sideways.train\(resume=…, epochs=…\)$"):
        find_checkpoint(checkpoints, SHAPES, 9, False, False, print)
    assert how_to_resume(Path("runs/it")) == "sideways.train(resume='runs/it')"
    monkeypatch.delenv(CALLER)
    assert how_to_resume(Path("runs/it")) == "sideways train --resume runs/it"


def test_without_checkpoints_a_resume_is_refused_and_a_restart_begins_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    warnings: list[str] = []
    with pytest.raises(SidewaysError, match="has no checkpoint to resume from"):
        find_checkpoint(checkpoints, SHAPES, 9, False, False, warnings.append)
    assert find_checkpoint(checkpoints, SHAPES, 9, False, True, warnings.append) is None
    keep(checkpoints, position(9))
    with pytest.raises(SidewaysError, match="has completed 9 of 9 ticks: to train further, raise ticks"):
        find_checkpoint(checkpoints, SHAPES, 9, False, False, warnings.append)
    for total_ticks, again in ((10, False), (9, True)):  # a restart: what follows the last tick was lost
        found = find_checkpoint(checkpoints, SHAPES, total_ticks, False, again, warnings.append)
        assert found is not None
        assert found[1].tick == 9


def test_a_run_that_was_not_evaluated_after_its_last_tick_is_resumed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    keep(checkpoints, position(9))
    found = find_checkpoint(checkpoints, SHAPES, 9, True, False, print)
    assert found is not None
    assert found[1].tick == 9
    checkpoints.set_score(9, 0.5)
    with pytest.raises(SidewaysError, match="has completed 9 of 9 ticks"):
        find_checkpoint(checkpoints, SHAPES, 9, True, False, print)
