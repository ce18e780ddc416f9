"""The command line."""

import signal
import sys

# until there is something to save, or the launcher handles it, an interrupt ends the process: a KeyboardInterrupt can
# get lost in an import
if sys.argv[1:2] in (["join"], ["train"], ["compare"]):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import atexit
import json
import os
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from common.config.run_file import load
from common.errors import ConfigError, SidewaysError
from common.processes.lifecycle import (
    ALLOCATOR,
    PATH_ERRORS,
    flush_output,
    print_error,
    remember_parent,
    stop_with,
    too_many_files,
)
from common.run_registry.redis_connection import from_environment
from coordinator.cli.live import steer
from coordinator.cli.offline import Json, Settings, tools
from coordinator.launch.attempt import RunMarker
from coordinator.launch.host_limits import check_host

app = typer.Typer(
    help="Sideways: depth-parallel training of video models.", no_args_is_help=True, pretty_exceptions_enable=False
)

app.add_typer(tools)
app.add_typer(steer)

RunFile = Annotated[Path, typer.Argument(help="run file (TOML), see examples/")]
Resume = Annotated[Path | None, typer.Option(help="resume this run directory, from its newest checkpoint")]


@app.command()
def train(
    run_file: Annotated[Path | None, typer.Argument(help="run file (TOML), see examples/")] = None,
    resume: Resume = None,
    stages: Annotated[int | None, typer.Option(help="same as --set stages=…")] = None,
    settings: Settings = None,
    as_json: Json = False,
    caller: Annotated[int | None, typer.Option(hidden=True, help="process that the run must not outlive")] = None,
) -> None:
    """Train on this machine: a coordinator and one process per stage."""
    if caller is not None:
        stop_with(caller)
    settings = [*(settings or []), *([f"stages={stages}"] if stages is not None else [])]
    run_file = _resumed(run_file, resume)
    config = load(run_file, settings)
    if config.report.redis:
        from_environment()  # report a wrong address before anything starts
    check_host(config)
    from coordinator.launch.elastic import launch  # torch takes seconds to import: report wrong settings first

    arguments = _join_arguments(run_file, resume, settings, as_json)
    raise SystemExit(launch(config.stages, arguments, config.recovery.restarts, 1.5 * config.network.deadline))


@app.command()
def compare(
    run_file: RunFile,
    algorithms: Annotated[
        str, typer.Option(help="two or more algorithms, separated by commas")
    ] = "sideways,backprop,gpipe,1f1b",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Train the same run with several algorithms in turn, and write a table and a plot of the results."""
    config = load(run_file, settings)
    check_host(config)
    from coordinator.tools import compare as comparison  # torch takes seconds to import: report wrong settings first

    chosen = comparison.check_algorithms(algorithms)
    folder, outcomes, code = comparison.compare(run_file, settings or [], chosen)
    comparison.show(folder, outcomes, config, as_json)
    raise SystemExit(code)


@app.command()
def check(
    source: Annotated[Path, typer.Argument(help="folder, list or split of videos, or a run file (TOML)")],
    stages: Annotated[int | None, typer.Option(help="same as --set stages=…")] = None,
    stride: Annotated[int | None, typer.Option(help="same as --set data.stride=…")] = None,
    size: Annotated[int | None, typer.Option(help="same as --set data.size=…")] = None,
    quarantine: Annotated[Path | None, typer.Option(help="file to write the bad files to, for data.quarantine")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Decode all clips and report bad files with reasons, clip lengths, sizes, frame rates and smoothness."""
    from coordinator.tools import check_data as checking

    short = {"stages": stages, "data.stride": stride, "data.size": size}
    given = [f"{key}={value}" for key, value in short.items() if value is not None]
    config = checking.settings(source, [*(settings or []), *given])
    surveys = checking.check(config)
    figures = checking.summarise(surveys, config)
    if quarantine is not None:
        print(f"{quarantine}: {checking.quarantine(surveys, quarantine)} files")
    if as_json:
        bad = {str(path): reason for survey in surveys for path, reason in survey.bad.items()}
        print(json.dumps({"parts": figures, "bad": bad}))
    if not any(survey.readable for survey in surveys):
        raise SystemExit(1)


@app.command()
def join(
    run_file: Annotated[Path | None, typer.Argument(help="run file (TOML); the coordinator needs it")] = None,
    role: Annotated[str, typer.Option(help="coordinator, stage, or auto: rank 0 is the coordinator")] = "auto",
    resume: Resume = None,
    settings: Settings = None,
    as_json: Json = False,
    only_check: Annotated[bool, typer.Option("--check", help="only validate the coordinator's settings")] = False,
) -> None:
    """Run one process of a run; started by torchrun, on one machine or several."""
    if only_check:
        load(_resumed(run_file, resume), settings)
        return
    remember_parent()
    if role not in ("auto", "coordinator", "stage"):
        raise ConfigError(f"--role {role} is unknown. Allowed: auto, coordinator, stage")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch warns about every peer that exits
    if role == "coordinator" or (role == "auto" and os.environ.get("RANK") == "0"):
        if not ALLOCATOR.keys() <= os.environ.keys():  # torchrun does not set it, and it is read only at process start
            _become("coordinator", *sys.argv[1:])
        run_file = _resumed(run_file, resume)
        from coordinator.run.process import main as coordinate

        config = load(run_file, settings)
        earlier = RunMarker(config.runs).find()
        if earlier is not None:
            resume = earlier  # its own run file has all settings, and the measured split
            config = load(earlier / "run.toml") if (earlier / "run.toml").is_file() else config
        coordinate(config, str(run_file), resume, as_json)
    else:
        _become("stage_worker")


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by another program: the allocator reads its environment only at process start."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(sys.executable, command, {**ALLOCATOR, **os.environ})  # noqa: S606


def _resumed(run_file: Path | None, resume: Path | None) -> Path:
    """The given run file, or else that of the resumed run."""
    if resume is not None and not (resume / "run.toml").is_file():
        raise ConfigError(f"--resume {resume}: there is no run.toml in it; pass a run directory, such as runs/digits-…")
    if run_file is not None:
        return run_file
    if resume is None:
        raise ConfigError("pass a run file (TOML, see examples/), or a run to resume: --resume runs/NAME")
    return resume / "run.toml"


def _join_arguments(run_file: Path, resume: Path | None, settings: list[str] | None, as_json: bool) -> list[str]:
    overrides = [part for setting in settings or [] for part in ("--set", setting)]
    resumed = ["--resume", str(resume)] if resume else []
    return ["-P", "-m", "coordinator", "join", str(run_file), *resumed, *overrides, *(["--json"] if as_json else [])]


def main() -> None:
    """Run a command. A SidewaysError is printed without a traceback and sets the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PATH_ERRORS)
    atexit.register(flush_output)
    try:
        app()
    except SidewaysError as error:
        print_error(error)
        raise SystemExit(error.code) from None
    except OSError as error:
        if not too_many_files(error):
            raise
        print_error(too_many_files(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
