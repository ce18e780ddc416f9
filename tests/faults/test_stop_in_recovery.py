"""A run that is asked to stop while it recovers from a loss keeps what it had only in memory."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import Background, sideways
from tests.support.settings import slow_run, write_run_file
from tests.support.waiting import wait_until

EVERY = 20  # ticks between snapshots


def recovering(videos: Path, tmp_path: Path, mode: str) -> tuple[Background, dict[str, int]]:
    """A run of which a stage was just killed, after 100 ticks, all of them only in memory; and its processes."""
    memory = {"recovery__mode": mode, "recovery__snapshot_every": EVERY, "recovery__restarts": 3, "report__every": 0.05}
    tree = slow_run(videos, **memory, checkpoint__every=10**6, ticks=10**6, network__deadline=4)
    run = Background(write_run_file(tmp_path / "run.toml", tree))
    run.wait_for_tick(100)
    members = run.members()
    os.kill(members["stage1"], signal.SIGKILL)
    return run, members


def new_member(run: Background, before: dict[str, int], who: str) -> int:
    """The process id of a member of the next attempt."""
    pid: int = wait_until(lambda: (now := run.members().get(who)) not in (None, before[who]) and now)
    return pid


def kept(run: Background, tmp_path: Path) -> None:
    """Check that the run obeys a stop, and has a checkpoint of what was in memory, from which it can be resumed."""
    assert run.end(90) == 143, run.output()
    output = " ".join(run.output().split())
    found = re.search(r"resumed from what all processes kept in memory at tick (\d+)|goes on at tick (\d+)", output)
    assert found, output
    tick = int(found[1] or found[2])
    assert tick > 100 - 2 * EVERY
    folder = tmp_path / "runs/it/checkpoints"
    [checkpoint] = [path.name for path in folder.iterdir()]
    assert int(checkpoint) >= tick
    assert not list((tmp_path / "runs").glob(".launch-*"))
    more = ("--set", f"ticks={int(checkpoint) + 9}")
    done = sideways("train", "--resume", tmp_path / "runs/it", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"at tick {int(checkpoint)}, with the activations" in " ".join(done.stderr.split())


@pytest.mark.long
@pytest.mark.parametrize(("mode", "seconds"), [("exact", 0.1), ("heal", 0.0)])
def test_a_stop_while_the_other_processes_end(videos: Path, tmp_path: Path, mode: str, seconds: float) -> None:
    run, _ = recovering(videos, tmp_path, mode)
    time.sleep(seconds)
    run.send(signal.SIGTERM)
    kept(run, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("mode", "seconds"), [("exact", 0.0), ("heal", 0.1)])
def test_a_stop_while_the_run_is_prepared_again(videos: Path, tmp_path: Path, mode: str, seconds: float) -> None:
    run, before = recovering(videos, tmp_path, mode)
    new_member(run, before, "coordinator")
    time.sleep(seconds)
    run.send(signal.SIGTERM)
    kept(run, tmp_path)


@pytest.mark.long
def test_a_stop_of_one_process_while_the_run_is_prepared_again(videos: Path, tmp_path: Path) -> None:
    """As a service manager does, which signals all of them."""
    run, before = recovering(videos, tmp_path, "exact")
    os.kill(new_member(run, before, "stage0"), signal.SIGTERM)
    kept(run, tmp_path)
