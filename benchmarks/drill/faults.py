"""What a run on a GPU does when its processes are killed or stopped: it recovers, and equals an undisturbed run.

    python -m benchmarks.drill.faults [--device cuda] [--faults kill-stage0 …]

For each fault a run is disturbed and stopped once it has trained again; as many ticks undisturbed must give the same
losses and parameters, bit for bit. All faults are tried at the same time. At the end the GPU's memory must be free.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench import python_path
from benchmarks.drill.together import together
from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.videos import write_clip

_STAGES = 3
# the signal, who gets it, and how many stages a process has: with several they are streams of one GPU
FAULTS: dict[str, tuple[signal.Signals, str, int]] = {
    "kill-coordinator": (signal.SIGKILL, "coordinator", 1),
    "kill-stage0": (signal.SIGKILL, "stage0", 1),
    "kill-stage1": (signal.SIGKILL, "stage1", 1),
    "kill-stage2": (signal.SIGKILL, "stage2", 1),
    "stop-stage1": (signal.SIGSTOP, "stage1", 1),
    "kill-all-stages": (signal.SIGKILL, "stage0", _STAGES),
}
_DEADLINE = 5.0  # seconds: network.deadline, after which a stopped process is noticed
_RECOVERY = 60.0
_LEFT = 64 * 2**20  # bytes of GPU memory that others may take or free meanwhile


def main() -> None:
    """Print one line of JSON: seconds of each recovery. Exits with an error where a run differs or does not recover."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--only", choices=FAULTS, help=argparse.SUPPRESS)  # a part
    arguments = parser.parse_args()
    os.environ.update(CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONPATH=python_path())
    if arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_recovery(Path(folder), arguments.device, arguments.only)))
        return
    before = _free()
    parts = [["--device", arguments.device, "--only", fault] for fault in arguments.faults]
    seconds = together("benchmarks.drill.faults", parts)
    left = before - _free()
    if left > _LEFT:
        raise SystemExit(f"{left / 2**20:.0f} MiB of GPU memory are still held after all processes have ended")
    print(json.dumps({"recovery_seconds": dict(zip(arguments.faults, seconds, strict=True)), "bytes_left": left}))


def _recovery(folder: Path, device: str, fault: str) -> float:
    """Seconds of the recovery, once the disturbed run was found equal."""
    for clip in range(12):
        write_clip(folder / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
    disturbed = _start(folder, "disturbed", device, 10**7, fault)
    try:
        disturbed.wait_for_tick(100, 120)
        seconds = _inject(disturbed, fault)
        disturbed.send(signal.SIGINT)
        code = disturbed.end(_RECOVERY)
    finally:
        _end(disturbed)
    if code != 128 + signal.SIGINT:
        sys.exit(f"{disturbed.output()}\nthe run ended with exit status {code} after Ctrl-C")
    first = disturbed.folder / "runs" / "it"
    ticks = json.loads((first / "summary.json").read_text())["ticks"]
    straight = _start(folder, "straight", device, ticks, fault)
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


def _start(folder: Path, name: str, device: str, ticks: int, fault: str) -> Background:
    (folder / name).mkdir()
    changes = {"device": device, "deterministic": True, "network__deadline": _DEADLINE, "recovery__restarts": 100}
    changes |= {"stages": _STAGES, "stages_per_process": FAULTS[fault][2]}
    tree = slow_run(folder, ticks=ticks, **changes)
    return Background(write_run_file(folder / name / "run.toml", tree), "--json")


def _end(run: Background) -> None:
    if run.process.poll() is None:
        run.process.terminate()
        run.process.wait(_RECOVERY)


def _inject(run: Background, fault: str) -> float:
    """Seconds from the fault to the first tick that had not been trained before."""
    number, who, _ = FAULTS[fault]
    reached = max(line["tick"] for line in run.metrics()[-50:])
    os.kill(run.members()[who], number)
    start = time.monotonic()
    run.wait_for_tick(reached + 50, _RECOVERY)
    return round(time.monotonic() - start, 2)


def _free() -> int:
    """Bytes of the GPU's memory that nobody holds; 0 without a GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
