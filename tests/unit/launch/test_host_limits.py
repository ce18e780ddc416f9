"""Missing requirements on the host are reported before any process is started."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import environment
from tests.support.settings import settings, write_run_file


def train(folder: Path, before: list[str]) -> tuple[int, str]:
    """Run `sideways train` through another command. Returns its exit code and its output."""
    command = [*before, sys.executable, "-P", "-m", "coordinator", "train", "run.toml"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment())
    assert time.monotonic() - start < 20, "the deadline was waited for"
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    write_run_file(tmp_path / "run.toml", settings(videos, ticks=5, name="it"))
    return tmp_path


def test_too_low_a_limit_of_open_files_is_an_error(folder: Path) -> None:
    code, output = train(folder, ["bash", "-c", 'ulimit -n 60; "$@"', "-"])
    assert code == 1
    assert "only 60 files may be open at a time, and this run needs up to 96" in output
    assert "ulimit -n 96" in output
    assert not (folder / "runs").exists()


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_missing_loopback_interface_is_an_error(folder: Path) -> None:
    code, output = train(folder, ["unshare", "-n"])
    assert code == 1
    assert "ip link set lo up" in output


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_run_file_in_another_encoding_is_an_error(folder: Path, encoding: str) -> None:
    file = folder / "run.toml"
    file.write_bytes(f"# café\n{file.read_text()}".encode(encoding))
    code, output = train(folder, [])
    assert code == 2
    assert "run.toml is not UTF-8 text" in output
    assert "save it as UTF-8" in output


def test_secrets_are_readable_by_the_containers_users(tmp_path: Path) -> None:
    """Although they are created under a strict umask. Others are kept out by the folder's permissions."""
    shutil.copy(Path(__file__).parents[3] / "Makefile", tmp_path)
    subprocess.run(["bash", "-c", "umask 077; make secrets"], cwd=tmp_path, check=True, capture_output=True)
    secrets = tmp_path / "deploy" / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    files = sorted(secrets.iterdir())
    assert [file.name for file in files] == ["grafana_password", "redis_password"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 and len(file.read_text()) == 48 for file in files)
