"""Run a benchmark and keep its figures, for the tables that `make figures` writes.

    python -m benchmarks.save peers --rounds 5                 # benchmarks/peers.py → benchmarks/results/peers.json
    python -m benchmarks.save --name recovery_quiet recovery   # under another name

The file holds the figures of the benchmark's --json line, the command, the machine, the commit and the date.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, python_path
from benchmarks.figures import RESULTS


def main() -> None:
    """Run it, pass its output on, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--name", help="name of the results; default: that of the benchmark")
    parser.add_argument("benchmark", help="a script of benchmarks/, without .py")
    arguments, options = parser.parse_known_args()
    if not (ROOT / f"benchmarks/{arguments.benchmark}.py").is_file():
        parser.error(f"there is no benchmarks/{arguments.benchmark}.py")
    save(arguments.name or arguments.benchmark, arguments.benchmark, options)


def save(name: str, benchmark: str, options: list[str], folder: Path = RESULTS) -> Path:
    """Run a benchmark and write what it measured to `folder`/`name`.json. Raises SystemExit if it fails."""
    command = ["python", f"benchmarks/{benchmark}.py", *options]
    variables = {**os.environ, "PYTHONPATH": python_path()}
    run = [sys.executable, *command[1:], "--json"]
    with subprocess.Popen(run, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        last = ""
        for last in process.stdout:
            print(last, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}: nothing is saved")
    about = {"machine": machine(), "commit": _commit(), "date": datetime.date.today().isoformat()}
    record: dict[str, Any] = {**about, "command": shlex.join(command), "figures": json.loads(last)}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(f"saved in {file}: `make figures` writes it into the documentation")
    return file


def machine() -> str:
    """This machine in a few words: cores, processor, GPU, version of torch."""
    import torch

    described = f"{len(os.sched_getaffinity(0))} cores ({_processor()})"
    if torch.cuda.is_available():
        described += f", {torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{described}, torch {torch.__version__}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The checkout's, marked if it has changes that are not committed, other than results."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
