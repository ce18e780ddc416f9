"""Commands for a running run, run in this process."""

from pathlib import Path

from typer.testing import CliRunner

from coordinator.__main__ import app


def steer(folder: Path, *arguments: str) -> str:
    """Run a command in this process, as starting another takes a second. Returns its output."""
    done = CliRunner().invoke(app, [*arguments, "--runs", str(folder / "runs")])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output
