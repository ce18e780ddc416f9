"""The Makefile: which Python it takes, and what it says if there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[3] / "Makefile"
TOOLS = ("make", "sh", "bash", "echo")
FROM_MAKE = ("PYTHON", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")  # of the `make test` that runs this


def make(folder: Path, *pythons: str, script: str = "", variables: str = "") -> subprocess.CompletedProcess[str]:
    """Begin to set up the environment, where only these commands of Python exist, all of them this script."""
    programs = folder / "bin"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool) or "")
    for python in pythons:
        (programs / python).write_text(f"#!/bin/sh\n{script or f'echo {programs / python} $*'}\n")
        (programs / python).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    command = ["make", "-f", str(MAKEFILE), ".venv/.ready", *variables.split()]
    environment = {name: value for name, value in os.environ.items() if name not in FROM_MAKE} | {"PATH": str(programs)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=20)


@pytest.mark.parametrize("there", [["3.11", "3.12", "3.13"], ["3.12", "3.13"], ["3.13"]])
def test_it_takes_the_oldest_python_that_is_there(tmp_path: Path, there: list[str]) -> None:
    done = make(tmp_path, "python3.10", "python3.14", *[f"python{version}" for version in there])
    assert f"bin/python{there[0]} -m venv .venv" in done.stdout + done.stderr


def test_without_any_it_says_which_would_do(tmp_path: Path) -> None:
    done = make(tmp_path, "python3.10", "python3")
    assert done.returncode
    assert "none of python3.11, python3.12, python3.13: install one, or pass PYTHON=path" in done.stderr


def test_commands_that_do_not_start_are_passed_over(tmp_path: Path) -> None:
    """Those of pyenv for versions that are not the current one."""
    done = make(tmp_path, "python3.11", script='echo "pyenv: python3.11: command not found" >&2; exit 127')
    assert "found none of" in done.stderr


def test_a_python_without_virtual_environments_is_named(tmp_path: Path) -> None:
    fails = 'case "$2" in *ensurepip*) exit 1;; *) echo "$0";; esac'
    done = make(tmp_path, "python3.12", script=fails)
    assert done.returncode
    assert "python3.12 cannot make virtual environments" in done.stderr
