"""Seconds from kill -9 of a process to the next useful tick.

    python benchmarks/recovery.py [--json]

`sideways train` on small clips that it draws itself, three stages, a checkpoint every 50 ticks; in turn the coordinator
and each stage are killed, three times each. The time is taken from the kill to the first report of a tick that had not
been trained before: so it holds finding out, ending the others, starting anew, reading the checkpoint, and training
again what was lost since. `restart` is the part until any stage reports again.
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
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    as_json = parser.parse_args().json
    figures = _measure()
    print("killed           next useful tick, s   of which until any report, s")
    for who, (useful, restart) in figures.items():
        print(f"{who:<16} {useful:19.1f} {restart:30.1f}")
    if as_json:
        print(json.dumps({who: {"useful": pair[0], "restart": pair[1]} for who, pair in figures.items()}))


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
        found: dict[str, list[tuple[float, float]]] = {who: [] for who in VICTIMS}
        for _ in range(ROUNDS):
            for who in VICTIMS:
                found[who].append(_kill(run, who))
        run.send(signal.SIGINT)
        run.end(60)
    return {
        who: (round(median(pair[0] for pair in pairs), 2), round(median(pair[1] for pair in pairs), 2))
        for who, pairs in found.items()
    }


def _kill(run: "Background", who: str) -> tuple[float, float]:
    """Seconds to the next useful tick, and to any."""
    time.sleep(3)
    reached = max(line["tick"] for line in run.metrics()[-50:])
    os.kill(run.members()[who], signal.SIGKILL)
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
