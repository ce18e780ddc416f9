"""Measure the seconds from a kill -9 of a process to the next useful tick, in all modes of recovery.

    python benchmarks/recovery.py [--json] [--learn]

`sideways train` on small generated clips with three stages and a checkpoint every 50 ticks, or instead ("memory") exact
snapshots in memory, or with recovery.mode = "heal" those of each stage. The coordinator and each stage are killed in
turn, three times each. The time runs from the kill to the first report of a tick that had not been trained before the
kill. So it includes detecting the failure, stopping the other processes, restarting, loading the state, and unless it
heals repeating the ticks since the checkpoint or snapshot. `restart` is the part until any stage reports again.

With `--learn` the moving digits of `make train` are learnt as well, undisturbed and with a stage killed every 20 s.

With `--json` the last line is {"exact": S, "heal": S, "roles": {"exact": {"coordinator": {"useful": S, "restart": S},
…}, "memory": {…}, "heal": {…}}, "memory": S}, where "exact", "memory" and "heal" are the medians of the processes'
medians, and with `--learn` also
{"learn": {"undisturbed": top-1, "killed": top-1, "kills": number, "lost_ticks": of all kills}}.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.processes import Background

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ROUNDS = 3
VICTIMS = ("coordinator", "stage0", "stage1", "stage2")
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "memory": {"recovery__snapshot_every": 50, "checkpoint__every": 10**6},
    "heal": {"recovery__mode": "heal", "recovery__snapshot_every": 50},
}
EVERY = 20  # seconds between two kills while it learns

Times = dict[str, dict[str, float]]  # by process


def main() -> None:
    """Measure all processes in all modes and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--learn", action="store_true", help="also learn the digits, with kills and without")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="kills of each process")
    arguments = parser.parse_args()
    roles = {mode: _measure(mode, arguments.rounds) for mode in MODES}
    print("mode   killed         s to next useful tick   of which to first report, s")
    for mode, times in roles.items():
        for process, own in times.items():
            print(f"{mode:<6} {process:<14} {own['useful']:21.1f} {own['restart']:29.1f}")
    figures: dict[str, Any] = {mode: _middle(times) for mode, times in roles.items()}
    figures["roles"] = roles
    if arguments.learn:
        figures["learn"] = _learn()
        print("digits, top-1: {undisturbed:.3f}; {killed:.3f} with {kills} kills".format(**figures["learn"]))
    if arguments.json:
        print(json.dumps(figures))


def _middle(times: Times) -> float:
    return round(median(own["useful"] for own in times.values()), 2)


def _measure(mode: str, rounds: int) -> Times:
    from tests.support.processes import Background
    from tests.support.settings import slow_run, write_run_file
    from tests.support.videos import write_clip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in range(12):
            write_clip(folder / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
        recovery: dict[str, Any] = {"recovery__restarts": 100, **MODES[mode]}
        run = Background(write_run_file(folder / "run.toml", slow_run(folder, ticks=10**7, **recovery)), "--json")
        run.wait_for_tick(200, 180)
        times: dict[str, list[tuple[float, float]]] = {process: [] for process in VICTIMS}
        for _ in range(rounds):
            for process in VICTIMS:
                times[process].append(_kill(run, process))
        run.send(signal.SIGINT)
        run.end(60)
    return {
        process: {
            "useful": round(median(pair[0] for pair in pairs), 2),
            "restart": round(median(pair[1] for pair in pairs), 2),
        }
        for process, pairs in times.items()
    }


def _learn() -> dict[str, Any]:
    import subprocess

    from tests.support.processes import Background

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, str(ROOT / "examples/make_digits.py"), str(folder / "data/digits")], check=True, cwd=folder
        )
        file = folder / "run.toml"
        file.write_text((ROOT / "examples/digits.toml").read_text())
        found: dict[str, Any] = {}
        for what, more in (("undisturbed", []), ("killed", ["recovery.mode=heal", "recovery.restarts=1000"])):
            settings = [word for setting in [*more, f"name={what}"] for word in ("--set", setting)]
            run = Background(file, *settings)
            kills = _kill_regularly(run) if more else 0
            assert run.end(3600) == 0, run.output()
            found |= {what: json.loads((folder / "runs" / what / "summary.json").read_text())["val_top1"]}
        lines = (json.loads(line) for line in (folder / "runs/killed/metrics.jsonl").read_text().splitlines())
        lost = sum(sum(line["lost_ticks"].values()) for line in lines if line["kind"] == "heal")
        return {**found, "kills": kills, "lost_ticks": lost}


def _kill_regularly(run: "Background") -> int:
    """Kill the stages in turn until the run ends. Returns how many were killed."""
    kills = 0
    for stage in itertools.cycle(range(4)):
        end = time.monotonic() + EVERY
        while time.monotonic() < end:
            if run.process.poll() is not None:
                return kills
            time.sleep(0.2)
        with suppress(KeyError, ProcessLookupError):  # it has just ended, or is being restarted
            os.kill(run.members()[f"stage{stage}"], signal.SIGKILL)
            kills += 1
    raise AssertionError("unreachable")


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
