"""The wheel, in an environment of its own: nothing needs the repository."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.settings import settings, write_run_file

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "coordinator", "sideways", "stage_worker")
SCRIPT = """
import sideways
result = sideways.train("run.toml")
print(sideways.load(result.directory).predict("clip.mp4").top(1)[0][0], sideways.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what a release holds."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "out",
        ".",
    ]
    subprocess.run(pip, cwd=folder, check=True, timeout=120)
    return next((folder / "out").iterdir())


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel, and this environment's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    # its packages, but not what they refer to: this repository, if it is installed in place
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = ["--python", str(folder / "bin/python"), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    return folder / "bin"


@pytest.mark.long
def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == set(PACKAGES)
    kept = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix not in ("", ".pyc")]
    assert {str(path.relative_to(ROOT)) for path in kept if path.is_file()} <= set(files)


@pytest.mark.long
def test_the_command_and_the_package_work_in_an_empty_folder(commands: Path, videos: Path, tmp_path: Path) -> None:
    write_run_file(tmp_path / "run.toml", settings(videos, ticks=20))
    shutil.copy(videos / "val/cat/1.mp4", tmp_path / "clip.mp4")
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={"PATH": "/bin"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    figures = json.loads(run(commands / "sideways", "train", "run.toml", "--json").splitlines()[-1])
    assert figures["ticks"] == 20
    name, file = run(commands / "python", "script.py").split()[-2:]
    assert name in ("ant", "bee", "cat")
    assert Path(file).is_relative_to(commands.parent)
