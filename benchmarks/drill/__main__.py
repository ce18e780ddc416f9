"""Everything that only a GPU can show, step by step, in one report.

    python -m benchmarks.drill [--dry-run] [--out gpu.json] [--minutes 8] [--steps NAME …]

Each step is a process of its own with a time limit, and prints its figures as a last line of JSON; a step that might
take longer than is left is skipped. The report is rewritten after every step, so a drill that is cut short still
reports what it has. The last line printed is {"steps": {NAME: "ok" | "skipped" | "failed: …"}}; the exit status is 1 if
a step failed.

With --dry-run, or where a step needs no GPU, it runs on the CPU; steps that can only run on a GPU are skipped.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import ROOT, python_path
from benchmarks.drill.steps import DRY, MORE, STEPS, Step

Outcome = dict[str, Any]  # status, and if it ran seconds and figures, and if it failed its output


def main() -> None:
    """Run the steps and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="on the CPU and in miniature; skip what needs a GPU")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the report")
    parser.add_argument("--minutes", type=float, help="of all steps; default: 8, in a dry run 40")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in (*STEPS, *MORE)], help="only these")
    arguments = parser.parse_args()
    card = None if arguments.dry_run else _card()
    if card is None and not arguments.dry_run:
        parser.error("this host has no CUDA device: --dry-run runs on the CPU what can run there")
    every = (*STEPS, *MORE)
    chosen = [step for step in every if step.name in arguments.steps] if arguments.steps else every
    report: dict[str, Any] = {"device": card or "CPU (dry run)", "steps": {}}
    end = time.monotonic() + 60 * (arguments.minutes or (40.0 if arguments.dry_run else 8.0))
    for step in chosen:
        outcome = _outcome(step, arguments.dry_run, end - time.monotonic())
        report["steps"][step.name] = outcome
        _write(arguments.out, report)
        print(f"{step.name:<12} {outcome.get('seconds', ''):>7} {outcome['status']}", flush=True)
    statuses = {name: _short(outcome["status"]) for name, outcome in report["steps"].items()}
    print(json.dumps({"steps": statuses}))
    raise SystemExit(any(status.startswith("failed") for status in statuses.values()))


def _card() -> str | None:
    """Name of the first GPU, found in another process: this one must not hold memory on it."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or None


def _outcome(step: Step, dry: bool, left: float) -> Outcome:
    arguments = step.dry if dry else step.arguments
    if arguments is None:
        return {"status": "skipped: not in a dry run"}
    limit = DRY * step.seconds if dry else step.seconds
    if left < limit:
        return {"status": f"skipped: {left:.0f} s are left, and it may take {limit:.0f}"}
    return _run([*step.script, *arguments], limit)


def _run(command: Sequence[str], limit: float) -> Outcome:
    """Run a step in a session of its own, all of which is killed when it ends or its time is up."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},  # so that the error comes last
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        status = "ok" if process.returncode == 0 else f"failed: exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = f"failed: not done after {limit:.0f} s"
    lines = output.splitlines()
    outcome: Outcome = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if status == "ok":
        try:
            outcome["figures"] = json.loads(lines[-1])
        except (IndexError, ValueError):
            outcome["status"] = status = "failed: the last line is not JSON"
    if status != "ok":
        outcome["output"] = lines[-60:]
        outcome["status"] = f"{status}: {lines[-1][:200]}" if lines else status
    return outcome


def _short(status: str) -> str:
    return "skipped" if status.startswith("skipped") else status


def _write(path: Path, report: dict[str, Any]) -> None:
    """Replace the report, so that it is whole at any time."""
    spare = path.with_suffix(".part")
    spare.write_text(json.dumps(report, indent=1) + "\n")
    spare.replace(path)


if __name__ == "__main__":
    main()
