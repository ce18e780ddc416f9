"""What a run on a GPU does when its processes are killed or stopped: it recovers, and equals an undisturbed run.

    python -m benchmarks.drill.faults [--device cuda] [--faults kill-stage0 …]

For each fault a run is disturbed and stopped once it has trained again; as many ticks undisturbed must give the same
losses and parameters, bit for bit. A run that heals (recovery.mode = "heal") must lose what it says, and no more, and
its losses must be numbers. All faults are tried at the same time. At the end the GPU's memory must be free.
"""

import argparse
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.bench import python_path
from benchmarks.drill.together import together
from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.videos import write_clip

_STAGES = 3


class Fault(NamedTuple):
    """A fault.

    Attributes:
        signal: sent to `who`.
        each: stages of a process: with several they are streams of one GPU.
        lost: of a run that heals, what it says of its loss, a regular expression; else None.
    """

    signal: signal.Signals
    who: str
    each: int = 1
    lost: str | None = None


FAULTS = {
    "kill-coordinator": Fault(signal.SIGKILL, "coordinator"),
    "kill-stage0": Fault(signal.SIGKILL, "stage0"),
    "kill-stage1": Fault(signal.SIGKILL, "stage1"),
    "kill-stage2": Fault(signal.SIGKILL, "stage2"),
    "stop-stage1": Fault(signal.SIGSTOP, "stage1"),
    "kill-all-stages": Fault(signal.SIGKILL, "stage0", _STAGES),
    "heal-coordinator": Fault(signal.SIGKILL, "coordinator", _STAGES, "no stage lost any update"),
    "heal-stage1": Fault(signal.SIGKILL, "stage1", 1, "stage 1 lost the updates of [0-9]+ ticks at most"),
}
_DEADLINE = 15.0  # seconds: network.deadline, after which a stopped process is noticed; a first tick may take long
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
    first, lost = disturbed.folder / "runs" / "it", FAULTS[fault].lost
    if lost is not None:
        _check_healed(disturbed.output(), first, lost)
        return seconds
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


def _check_healed(output: str, run: Path, lost: str) -> None:
    if not re.search(rf"healed: the training goes on at tick [0-9]+; {lost}$", output, re.MULTILINE):
        sys.exit(f"{output}\nthe run did not heal with this loss: {lost}")
    if not all(map(math.isfinite, losses_of(run))):
        sys.exit("the run healed, but has losses that are not finite")


def _start(folder: Path, name: str, device: str, ticks: int, fault: str) -> Background:
    (folder / name).mkdir()
    changes = {"device": device, "deterministic": True, "network__deadline": _DEADLINE, "recovery__restarts": 100}
    changes |= {"stages": _STAGES, "stages_per_process": FAULTS[fault].each}
    changes |= {} if FAULTS[fault].lost is None else {"recovery__mode": "heal"}
    tree = slow_run(folder, ticks=ticks, **changes)
    return Background(write_run_file(folder / name / "run.toml", tree), "--json")


def _end(run: Background) -> None:
    if run.process.poll() is None:
        run.process.terminate()
        run.process.wait(_RECOVERY)


def _inject(run: Background, fault: str) -> float:
    """Seconds from the fault to the first tick that had not been trained before."""
    reached = max(line["tick"] for line in run.metrics()[-50:])
    os.kill(run.members()[FAULTS[fault].who], FAULTS[fault].signal)
    start = time.monotonic()
    run.wait_for_tick(reached + 50, _RECOVERY)
    return round(time.monotonic() - start, 2)


def _free() -> int:
    """Bytes of the GPU's memory that nobody holds; 0 without a GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
