"""Closed terminals: a run under nohup continues, any other stops as on request and leaves nothing behind."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import Background, environment
from tests.support.settings import settings, write_run_file
from tests.support.waiting import gone, wait_until

HIDDEN = {".lock"}  # stays after a run has ended, besides its results
RESULTS = {"checkpoints", "metrics.jsonl", "model.safetensors", "run.toml", "status.json", "summary.json"}


def endless(videos: Path, folder: Path, **changes: object) -> Path:
    tree = settings(videos, ticks=10_000_000, name="it", report__redis=True, checkpoint__every=50, **changes)
    return write_run_file(folder / "run.toml", tree)


def left_behind(run: Path) -> set[str]:
    """Files that should have been removed, and incomplete checkpoints."""
    incomplete = {path.name for path in (run / "checkpoints").iterdir() if not path.name.isdecimal()}
    return {path.name for path in run.iterdir()} - HIDDEN - RESULTS | incomplete


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_hang_up_stops_a_run_like_sigterm(videos: Path, tmp_path: Path, number: signal.Signals) -> None:
    background = Background(endless(videos, tmp_path), "--json")
    background.wait_for_tick(70)
    members = background.members()
    background.send(number)
    assert background.end(30) == 128 + number
    assert gone(list(members.values()), 2)
    run = tmp_path / "runs" / "it"
    assert json.loads((run / "summary.json").read_text())["ticks"] > 70
    assert (run / "model.safetensors").is_file()
    assert not left_behind(run)
    assert not list((tmp_path / "runs").glob(".launch-*"))


@pytest.mark.long
def test_under_nohup_a_run_survives_a_hang_up(videos: Path, tmp_path: Path) -> None:
    """SIGHUP reaches the launcher and all processes of the run."""
    background = Background(endless(videos, tmp_path), under=["nohup"])
    background.wait_for_tick(20)
    members = background.members()
    for process in (background.process.pid, *members.values()):
        os.kill(process, signal.SIGHUP)
    reached = background.metrics()[-1]["tick"]
    background.wait_for_tick(reached + 100)
    assert background.members() == members
    background.send(signal.SIGTERM)
    assert background.end(30) == 143
    assert (tmp_path / "runs" / "it" / "model.safetensors").is_file()


@pytest.mark.long
def test_closing_the_terminal_stops_the_run(videos: Path, tmp_path: Path) -> None:
    """Writing to the closed terminal fails as well."""
    run_file = endless(videos, tmp_path)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "coordinator", "train", str(run_file)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    metrics = tmp_path / "runs" / "it" / "metrics.jsonl"
    os.set_blocking(ours, False)

    def under_way() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 1 << 16)  # else the terminal's buffer fills up
        return metrics.is_file() and len(metrics.read_text().splitlines()) > 5

    wait_until(under_way)
    os.close(ours)
    assert process.wait(40) == 128 + signal.SIGHUP
    run = tmp_path / "runs" / "it"
    assert (run / "model.safetensors").is_file()
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert not left_behind(run)
