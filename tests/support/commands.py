"""Commands to a running run, in this process."""

from pathlib import Path

from typer.testing import CliRunner

from coordinator.__main__ import app


def steer(folder: Path, *arguments: str) -> str:
    """A command, in this process: starting one takes a second."""
    done = CliRunner().invoke(app, [*arguments, "--runs", str(folder / "runs")])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output
