"""One process of a run: it runs the coordinator, a stage worker or a reader."""

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from common.config.run_file import load
from common.errors import ConfigError
from common.processes.allocator import ALLOCATOR
from common.processes.interpreter import quiet_torch
from common.processes.parent import remember_parent
from common.processes.python_command import python_command
from coordinator.launch.attempt import RunMarker


def run_role(run_file: Path | None, role: str, resume: Path | None, settings: list[str] | None, as_json: bool) -> None:
    """Run this process's part of a run. The launcher, or torchrun, has set the rank in the environment.

    Args:
        run_file: the coordinator needs it, unless it resumes a run.
        role: "coordinator", "stage", "reader", or "auto": rank 0 is the coordinator, then come the stages, then the
            readers, if the run file asks for any.
        resume: the run directory to resume.
        settings: overrides, as section.key=value.
        as_json: print the summary as JSON.

    Raises:
        ConfigError: a setting or the role is wrong.
    """
    remember_parent()
    if role not in ("auto", "coordinator", "stage", "reader"):
        raise ConfigError(f"--role {role} is unknown. Allowed: auto, coordinator, stage, reader")
    quiet_torch()
    has_allocator = ALLOCATOR.keys() <= os.environ.keys()  # not under torchrun
    if role == "auto":
        rank, world = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE"))
        role = _by_rank(rank, world, run_file, resume, settings)
    if role == "coordinator":
        if not has_allocator:
            _become("coordinator", *sys.argv[1:])
        _coordinate(resumed(run_file, resume), resume, settings, as_json)
    elif has_allocator:
        importlib.import_module(f"{_PROGRAMS[role]}.__main__").main()  # by name: packages do not import each other
    else:
        _become(_PROGRAMS[role])


_PROGRAMS = {"stage": "stage_worker", "reader": "coordinator.reader"}


def _by_rank(rank: int, world: int, run_file: Path | None, resume: Path | None, settings: list[str] | None) -> str:
    """The role of a process: a host that has no run file has no readers by rank."""
    if rank == 0:
        return "coordinator"
    file = run_file or (resume and resume / "run.toml")
    if file is None or not file.is_file():
        return "stage"
    return "reader" if rank >= world - load(file, settings).data.readers else "stage"


def resumed(run_file: Path | None, resume: Path | None) -> Path:
    """The given run file, or else that of the resumed run."""
    if resume is not None and not (resume / "run.toml").is_file():
        raise ConfigError(f"--resume {resume}: there is no run.toml in it; pass a run directory, such as runs/digits-…")
    if run_file is not None:
        return run_file
    if resume is None:
        raise ConfigError("pass a run file (TOML, see examples/), or a run to resume: --resume runs/NAME")
    return resume / "run.toml"


def _coordinate(run_file: Path, resume: Path | None, settings: list[str] | None, as_json: bool) -> None:
    from coordinator.run.process import main as coordinate

    config = load(run_file, settings)
    marker = RunMarker(config)
    marker.check()
    earlier = marker.find()
    if earlier is not None:
        resume = earlier  # its own run file has all settings, and the measured split
        config = load(earlier / "run.toml") if (earlier / "run.toml").is_file() else config
    coordinate(config, str(run_file), resume, as_json)


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by another program: the allocator reads its environment only at process start."""
    os.execve(sys.executable, python_command(module, *arguments), {**ALLOCATOR, **os.environ})  # noqa: S606
