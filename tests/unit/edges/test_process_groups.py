"""The group in which the stages write checkpoints, after one of them was too late."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch._C._distributed_c10d import FileStore
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from common.errors import PeerError
from common.processes.membership import Membership
from common.processes.output import exit_now
from stage_worker import checkpoint
from stage_worker.edges import process_groups

LIMIT, TOO_LONG = 2.0, 5.0  # seconds


class SlowWriter(FileSystemWriter):
    """A disk that is too slow."""

    def write_data(self, *arguments: Any) -> Any:
        time.sleep(TOO_LONG)
        return super().write_data(*arguments)


def write_three(stage: int, folder: Path) -> None:
    """One of two stages: the other one is too late with its part of the first checkpoint."""
    process_groups._WRITING = LIMIT
    me = SimpleNamespace(of_replica=0, store=FileStore(str(folder / "store"), 2), processes=2, stage=stage)
    me.process_of = lambda other: other
    groups = process_groups.Groups(cast(Membership, me), 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FileSystemWriter", SlowWriter if stage else FileSystemWriter)
        late = written(groups, folder / "late")
        time.sleep(0.5)  # until it has its writer
    if stage:  # it is still writing
        with pytest.raises(PeerError, match="it was not written within 2 s: use a faster disk"):
            late.wait(LIMIT)
    else:
        with pytest.raises(PeerError, match="another stage was not done by then, so use a faster disk"):
            late.wait(10 * LIMIT)
    with pytest.raises(PeerError):
        written(groups, folder / "unusable").wait(10 * TOO_LONG)
    groups.renew_checkpoint()
    written(groups, folder / "renewed").wait(TOO_LONG)
    with pytest.raises(PeerError):
        late.wait(2 * TOO_LONG)  # it fails for itself
    groups.renew_checkpoint()
    written(groups, folder / "once more").wait(TOO_LONG)
    exit_now(17)  # as stages end: torch's threads may disturb a normal exit


def written(groups: process_groups.Groups, folder: Path) -> checkpoint.CheckpointWriter:
    state = {f"model.{groups.checkpoint.rank()}": torch.ones(3)}
    return checkpoint.CheckpointWriter(state, folder, groups.checkpoint)


@pytest.mark.long
def test_after_a_checkpoint_that_took_too_long_the_next_one_succeeds(tmp_path: Path) -> None:
    code = f"import pathlib; from {__name__} import write_three; write_three({{}}, pathlib.Path({str(tmp_path)!r}))"
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([sys.executable, "-c", code.format(stage)], cwd=root) for stage in range(2)]
    assert [process.wait(100) for process in processes] == [17, 17]
    assert {path.name for path in (tmp_path / "renewed").iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
