"""Snapshots in memory that are damaged: the run goes on from older ones, or from the checkpoint."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.waiting import gone, wait_until


def damaged(videos: Path, tmp_path: Path, pattern: str, newest: bool = False, **changes: Any) -> Background:
    """A run of which a stage was killed, and the snapshots of this pattern damaged before the next attempt begins.

    `newest`: only the newest of them.
    """
    often = {"recovery__snapshot_every": 20, "recovery__restarts": 6, "report__every": 0.05, "network__deadline": 4}
    run = Background(write_run_file(tmp_path / "run.toml", slow_run(videos, **{**often, **changes})))
    run.wait_for_tick(130)
    members, launcher = run.members(), psutil.Process(run.process.pid)
    launcher.suspend()
    os.kill(members["stage1"], signal.SIGKILL)
    assert gone(list(members.values()), 30)
    [lock] = [file.path for file in launcher.open_files() if Path(file.path).name == "lock"]
    files = list(Path(lock).parent.glob(pattern))
    assert files
    for file in sorted(files, key=lambda file: int(file.suffix[1:]))[-1 if newest else 0 :]:
        os.truncate(file, file.stat().st_size // 2)
    launcher.resume()
    return run


@pytest.mark.long
@pytest.mark.parametrize("pattern", ["stage1-0.*", "coordinator.*"])
def test_the_run_goes_back_to_the_checkpoint(videos: Path, straight: Path, tmp_path: Path, pattern: str) -> None:
    run = damaged(videos, tmp_path, pattern)
    assert run.end(100) == 0, run.output()
    output, stage = " ".join(run.output().split()), pattern.startswith("stage")
    assert re.search(r"resumed from .*/checkpoints/0000000(100|150) at tick (100|150)", output), output
    reason = r"stage 1: the snapshot of tick 1\d0 cannot be restored \(.*\): the next attempt goes on from an older one"
    assert bool(re.search(reason, output)) == stage
    assert len([line for line in run.metrics() if line["kind"] == "restart"]) == 1
    assert losses_of(tmp_path / "runs/it") == losses_of(straight)
    assert same_model(tmp_path / "runs/it", straight)


@pytest.mark.long
def test_the_run_goes_back_to_an_older_snapshot(videos: Path, straight: Path, tmp_path: Path) -> None:
    run = damaged(videos, tmp_path, "stage1-0.*", newest=True, checkpoint__every=10**6)
    assert run.end(100) == 0, run.output()
    output = " ".join(run.output().split())
    assert re.search(r"resumed from what all processes kept in memory at tick 1[02]0,", output), output
    assert losses_of(tmp_path / "runs/it") == losses_of(straight)
    assert same_model(tmp_path / "runs/it", straight)


@pytest.mark.long
def test_only_the_stage_whose_snapshot_is_damaged_goes_back_further(videos: Path, tmp_path: Path) -> None:
    run = damaged(videos, tmp_path, "stage0-0-last.*", recovery__mode="heal", ticks=10**6)
    found = wait_until(lambda: [line for line in run.metrics() if line["kind"] == "heal"])[-1]
    assert sorted(found["lost_ticks"]) == ["0", "1"]
    run.wait_for_tick(found["tick"] + 20)
    run.send(signal.SIGINT)
    assert run.end(60) == 130
    assert "stage 0: the snapshot of tick" in " ".join(run.output().split())
