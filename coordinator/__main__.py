"""The command line."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.config import load
from common.errors import ConfigError, SidewaysError
from common.process import ALLOCATOR, note_parent

app = typer.Typer(
    help="Sideways: depth-parallel training of video models.", no_args_is_help=True, pretty_exceptions_enable=False
)

RunFile = Annotated[Path, typer.Argument(help="run file (TOML), see examples/")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="override: section.key=value; may be repeated")]
Json = Annotated[bool, typer.Option("--json", help="print the summary as one last line on standard output")]


@app.command()
def train(run_file: RunFile, settings: Settings = None, as_json: Json = False) -> None:
    """Train on this machine: a coordinator and one process per stage."""
    config = load(run_file, settings)
    # until the launcher handles it, an interrupt ends this process: an exception can get lost in an import
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from coordinator.launch import launch  # torch takes seconds to import: a wrong setting is told before

    raise SystemExit(launch(config.stages, _join_arguments(run_file, settings, as_json)))


@app.command()
def join(
    run_file: Annotated[Path | None, typer.Argument(help="run file (TOML); the coordinator needs it")] = None,
    role: Annotated[str, typer.Option(help="coordinator, stage, or auto: rank 0 coordinates")] = "auto",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Be one process of a run: what torchrun starts, on one machine or several."""
    note_parent()
    if role not in ("auto", "coordinator", "stage"):
        raise ConfigError(f"--role {role} is unknown. Allowed: auto, coordinator, stage")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's own warnings about peers that end
    if role == "coordinator" or (role == "auto" and os.environ.get("RANK") == "0"):
        if run_file is None:
            raise ConfigError("the coordinator needs a run file: sideways join RUN.toml")
        from coordinator.run import main as coordinate

        coordinate(load(run_file, settings), str(run_file), as_json)
    else:
        # a program of its own: the allocator reads its environment once, at the start
        os.execve(sys.executable, [sys.executable, "-m", "stage_worker"], {**ALLOCATOR, **os.environ})  # noqa: S606


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run directory, such as runs/digits-20260101-120000")],
    out: Annotated[Path, typer.Argument(help="file to write, .safetensors")],
) -> None:
    """Write the whole model's parameters under its own names."""
    from coordinator.export import export as write

    print(f"{out}: {write(run, out)} tensors")


def _join_arguments(run_file: Path, settings: list[str] | None, as_json: bool) -> list[str]:
    overrides = [part for setting in settings or [] for part in ("--set", setting)]
    return ["-m", "coordinator", "join", str(run_file), *overrides, *(["--json"] if as_json else [])]


def main() -> None:
    """Run a command; a SidewaysError is told as a sentence."""
    try:
        app()
    except SidewaysError as error:
        print(f"sideways: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


if __name__ == "__main__":
    main()
