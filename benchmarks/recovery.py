"""Measure the seconds from a kill -9 of a process to the next useful tick.

    python benchmarks/recovery.py [--json]

`sideways train` on small generated clips with three stages and a checkpoint every 50 ticks. The coordinator and each
stage are killed in turn, three times each. The time runs from the kill to the first report of a tick that had not been
trained before the kill. So it includes detecting the failure, stopping the other processes, restarting, loading the
checkpoint, and repeating the ticks since the checkpoint. `restart` is the part until any stage reports again. With
`--json` the last line is {"exact": S, "roles": {"coordinator": {"useful": S, "restart": S}, …}}, where "exact" is the
median of the processes' medians: the run afterwards equals an undisturbed one.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.processes import Background

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ROUNDS = 3
VICTIMS = ("coordinator", "stage0", "stage1", "stage2")


def main() -> None:
    """Measure all processes and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    as_json = parser.parse_args().json
    figures = _measure()
    print("killed         s to next useful tick   of which to first report, s")
    for process, (useful, restart) in figures.items():
        print(f"{process:<14} {useful:21.1f} {restart:29.1f}")
    if as_json:
        roles = {process: {"useful": useful, "restart": restart} for process, (useful, restart) in figures.items()}
        print(json.dumps({"exact": round(median(pair[0] for pair in figures.values()), 2), "roles": roles}))


def _measure() -> dict[str, tuple[float, float]]:
    from tests.support.processes import Background
    from tests.support.settings import slow_run, write_run_file
    from tests.support.videos import write_clip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in range(12):
            write_clip(folder / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
        run = Background(
            write_run_file(folder / "run.toml", slow_run(folder, ticks=10**7, recovery__restarts=100)), "--json"
        )
        run.wait_for_tick(200, 180)
        times: dict[str, list[tuple[float, float]]] = {process: [] for process in VICTIMS}
        for _ in range(ROUNDS):
            for process in VICTIMS:
                times[process].append(_kill(run, process))
        run.send(signal.SIGINT)
        run.end(60)
    return {
        process: (round(median(pair[0] for pair in pairs), 2), round(median(pair[1] for pair in pairs), 2))
        for process, pairs in times.items()
    }


def _kill(run: "Background", process: str) -> tuple[float, float]:
    """Kill a process. Returns the seconds to the report of the next useful tick, and to the first report."""
    time.sleep(3)
    reached = max(line["tick"] for line in run.metrics()[-50:])
    os.kill(run.members()[process], signal.SIGKILL)
    killed = time.time()
    first = None
    while True:
        since = [line for line in run.metrics()[-50:] if line["kind"] == "progress" and line["time"] > killed + 1]
        first = first or next((line["time"] - killed for line in since), None)
        useful = next((line["time"] - killed for line in since if line["tick"] > reached), None)
        if useful is not None and first is not None:
            return useful, first
        assert run.process.poll() is None, run.output()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
