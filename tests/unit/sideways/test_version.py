"""The version, in Python and on the command line."""

import re

import pytest
from typer.testing import CliRunner

import sideways
from coordinator.__main__ import app


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "train"]])
def test_python_and_the_command_line_tell_one_version(arguments: list[str]) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", sideways.__version__)
    assert CliRunner().invoke(app, arguments).stdout == f"sideways {sideways.__version__}\n"
