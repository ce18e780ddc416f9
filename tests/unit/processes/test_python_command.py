import subprocess
from pathlib import Path

from common.processes.python_command import python_command


def test_modules_in_the_working_directory_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "platform.py").write_text("raise SystemExit('a module of the user')")
    command = python_command("platform", "terse")
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
