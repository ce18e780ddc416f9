"""The command line."""

import signal
import sys

# until there is something to save, or the launcher handles it, an interrupt ends the process: a KeyboardInterrupt can
# get lost in an import
if sys.argv[1:2] in (["join"], ["train"], ["compare"]):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from common.processes.allocator import use_allocator

if sys.argv[1:2] in (["train"], ["compare"]):  # the processes of a run are forks of this one
    use_allocator()

import atexit
import json
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from common import __version__
from common.config.run_file import load
from common.errors import PATH_ERRORS, SidewaysError
from common.processes.interpreter import quiet_torch
from common.processes.open_files import too_many_files
from common.processes.output import flush_output, print_error
from common.run_registry.redis_connection import from_environment
from coordinator.cli.live import steer
from coordinator.cli.offline import Json, Settings, tools
from coordinator.launch.attempt import RunMarker
from coordinator.launch.host_limits import check_host
from coordinator.launch.model_depth import check_with_torch
from coordinator.launch.role import resumed, run_role

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

app.add_typer(tools)
app.add_typer(steer)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sideways {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version and exit")
    ] = False,
) -> None:
    """Sideways: depth-parallel training of video models."""


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
    """Train on this machine: a coordinator, one process per stage, and readers."""
    settings = [*(settings or []), *([f"stages={stages}"] if stages is not None else [])]
    run_file = resumed(run_file, resume)
    config = load(run_file, settings)
    if config.report.redis:
        from_environment()  # report a wrong address before anything starts
    check_host(config)
    check_with_torch(config)
    # torch takes seconds to import: report wrong settings first
    from coordinator.launch.launcher import Supervision, launch
    from coordinator.launch.stage_processes import layout_of
    from coordinator.run_names import refuse_taken

    if resume is None:
        refuse_taken(config)
    program = partial(run_role, run_file, "auto", resume, settings, as_json)
    code = launch(program, layout_of(config), Supervision.of(config, caller))
    RunMarker(config).remove()  # of a run that was ended before it could
    raise SystemExit(code)


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
    source: Annotated[str, typer.Argument(help="folder, list or split of videos, or a run file (TOML)")],
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
    role: Annotated[str, typer.Option(help="coordinator, stage, reader, or auto: by rank")] = "auto",
    resume: Resume = None,
    settings: Settings = None,
    as_json: Json = False,
    only_check: Annotated[bool, typer.Option("--check", help="only validate the coordinator's settings")] = False,
) -> None:
    """Run one process of a run; started by torchrun, on one machine or several."""
    if only_check:
        config = load(resumed(run_file, resume), settings)
        RunMarker(config).check()
        check_with_torch(config)
        return
    run_role(run_file, role, resume, settings, as_json)


def main() -> None:
    """Run a command. A SidewaysError is printed without a traceback and sets the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PATH_ERRORS)
    atexit.register(flush_output)
    quiet_torch()
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
