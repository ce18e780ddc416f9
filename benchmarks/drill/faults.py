"""What a run on a GPU does when its processes are killed or stopped: it recovers, and equals an undisturbed run.

    python -m benchmarks.drill.faults [--device cuda] [--faults kill-stage0 …]

One run is disturbed by one fault after another, each after it has trained again, and is then stopped; as many ticks
undisturbed must give the same losses and parameters, bit for bit. The GPU's memory must be free again at the end.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.bench import python_path
from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.videos import write_clip

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
FAULTS = ("kill-coordinator", "kill-stage0", "kill-stage1", "kill-stage2", "stop-stage1")
_DEADLINE = 5.0  # seconds: network.deadline, after which a stopped process is noticed
_RECOVERY = 60.0
_LEFT = 64 * 2**20  # bytes of GPU memory that others may take or free meanwhile


def main() -> None:
    """Print one line of JSON: seconds of each recovery. Exits with an error where a run differs or does not recover."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    arguments = parser.parse_args()
    os.environ.update(CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONPATH=python_path())
    before = _free()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in range(12):
            write_clip(folder / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
        seconds = _compare(folder, arguments.device, arguments.faults)
    left = before - _free()
    if left > _LEFT:
        raise SystemExit(f"{left / 2**20:.0f} MiB of GPU memory are still held after all processes have ended")
    print(json.dumps({"recovery_seconds": seconds, "bytes_left": left}))


def _compare(folder: Path, device: str, faults: Sequence[str]) -> dict[str, float]:
    """Seconds of each recovery, once the disturbed run was found equal."""
    disturbed = _start(folder, "disturbed", device, 10**7)
    try:
        disturbed.wait_for_tick(100, 120)
        seconds = {fault: _inject(disturbed, fault) for fault in faults}
        disturbed.send(signal.SIGINT)
        code = disturbed.end(_RECOVERY)
    finally:
        _end(disturbed)
    if code != 128 + signal.SIGINT:
        sys.exit(f"{disturbed.output()}\nthe run ended with exit status {code} after Ctrl-C")
    first = disturbed.folder / "runs" / "it"
    straight = _start(folder, "straight", device, json.loads((first / "summary.json").read_text())["ticks"])
    try:
        code = straight.end(300)
    finally:
        _end(straight)
    if code:
        sys.exit(f"{straight.output()}\nthe undisturbed run ended with exit status {code}")
    second = straight.folder / "runs" / "it"
    if losses_of(first) != losses_of(second) or not same_model(first, second):
        sys.exit("the disturbed run's losses or parameters differ from the undisturbed run's")
    return seconds


def _start(folder: Path, name: str, device: str, ticks: int) -> Background:
    (folder / name).mkdir()
    changes = {"device": device, "deterministic": True, "network__deadline": _DEADLINE, "recovery__restarts": 100}
    tree = slow_run(folder, ticks=ticks, **changes)
    return Background(write_run_file(folder / name / "run.toml", tree), "--json")


def _end(run: Background) -> None:
    if run.process.poll() is None:
        run.process.terminate()
        run.process.wait(_RECOVERY)


def _inject(run: Background, fault: str) -> float:
    """Seconds from the fault to the first tick that had not been trained before."""
    how, who = fault.split("-")
    reached = max(line["tick"] for line in run.metrics()[-50:])
    os.kill(run.members()[who], _SIGNALS[how])
    start = time.monotonic()
    run.wait_for_tick(reached + 50, _RECOVERY)
    return round(time.monotonic() - start, 2)


def _free() -> int:
    """Bytes of the GPU's memory that nobody holds; 0 without a GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
