"""`import sideways` beside a user's packages that are named like ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sideways
from sideways.import_scope import NAMES
from tests.support.processes import environment

USE = """
import sys
from pathlib import Path

{first}
import sideways

from sideways import TemporalShift, Memory
assert issubclass(TemporalShift, Memory)
assert issubclass(sideways.ConfigError, sideways.SidewaysError)
assert sideways.train and sideways.load
import common, coordinator
from common.sizes import WIDTH
assert WIDTH == 5 and coordinator.MINE and 'coordinator.python' not in sys.modules
try:
    sideways.train("missing.toml")
except sideways.ConfigError as error:
    assert "cannot read the run file" in str(error)
print(Path(common.__file__).parent)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with packages of our names."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").touch()
    (tmp_path / "common/sizes.py").write_text("WIDTH = 5")
    (tmp_path / "coordinator.py").write_text("MINE = True")
    return tmp_path


def python(*arguments: str, folder: Path, before: bool) -> str:
    """Run Python in the folder, which precedes ours on the path if `before`."""
    variables = environment()
    if before:
        variables["PYTHONPATH"] = f"{folder}{os.pathsep}{variables['PYTHONPATH']}"
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("first", ["", "import common, coordinator"])
def test_both_keep_their_own_in_a_users_process(folder: Path, first: str) -> None:
    """The script's folder is the first on the path, as in a notebook."""
    assert python("-c", USE.format(first=first), folder=folder, before=False) == str(folder / "common")


def test_the_command_line_is_ours_wherever_it_starts(folder: Path) -> None:
    """Python's path begins with the user's folder: by -m, or by PYTHONPATH."""
    arguments = ["-m", "sideways", "ticks", "--stages", "1"]
    assert "f0 g0" in python(*arguments, folder=folder, before=False)
    assert "f0 g0" in python("-P", *arguments, folder=folder, before=True)


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(sideways) == sideways.__all__
    assert all(getattr(sideways, name).__doc__ for name in sideways.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'trian'. It has .*train"):
        sideways.trian  # noqa: B018
    assert not set(sideways.__all__) & set(NAMES)
