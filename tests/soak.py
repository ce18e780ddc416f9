"""`make soak`: a run that something happens to all the time, and then the same run left alone.

python -m tests.soak --minutes 30 [--seed 0] [--every 30 60]

A random fault of a random process every half to one minute, for so many minutes; then the run is asked to stop. Its
losses and parameters must be those of an undisturbed run of as many ticks, bit for bit, and it must not take more
memory than at first: the most that a process had to itself in the last third of the time is compared with the first.
"""

import json
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from tests.faults.faults import Fault
from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.videos import write_clip

_GROWTH, _SLACK = 1.10, 4.0  # of a process's memory, at most; MiB more, as Redis fills its capped history
_STAGES, _ENDLESS = 3, 10**8
_TARGETS = {
    Fault.KILLED: ["coordinator", "stage0", "stage1", "stage2", "redis"],
    Fault.STALLED: ["coordinator", "stage0", "stage1", "stage2", "redis"],
    Fault.HELD_UP: ["coordinator", "stage0", "stage1", "stage2", "redis"],
    Fault.SLOW: ["coordinator", "stage0", "stage1", "stage2"],
    Fault.GARBAGE: ["coordinator", "stage0"],
    Fault.TRUNCATED: ["stage0"],
    Fault.MISSHAPEN: ["stage0"],
    Fault.REPEATED: ["stage0"],
    Fault.FLOOD: ["coordinator", "stage0"],
    Fault.LATE: ["stage0"],
    Fault.FULL_DISK: ["stage0", "stage1", "stage2"],
    Fault.REDIS_DOWN: ["redis"],
}

say = Console().print


class Memory:
    """MiB of each process of a run, by its role, over time."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def look(self, run: Background) -> None:
        """Take a sample."""
        with suppress(psutil.Error):
            for who, pid in {**run.members(), "launcher": run.process.pid}.items():
                with suppress(psutil.Error):
                    own = psutil.Process(pid).memory_full_info().uss / 2**20  # what is shared depends on others
                    self._seen[who].append((time.monotonic(), own))

    def growth(self, start: float, end: float) -> dict[str, tuple[float, float]]:
        """Of each role the most MiB in the first third and in the last."""
        third = (end - start) / 3
        found = {}
        for who, samples in sorted(self._seen.items()):
            first = [own for when, own in samples if when <= start + third]
            last = [own for when, own in samples if when >= end - third]
            if first and last:
                found[who] = max(first), max(last)
        return found


def main(
    minutes: Annotated[float, typer.Option(help="of faults")] = 30,
    seed: Annotated[int, typer.Option(help="of the choice of faults")] = 0,
    every: Annotated[tuple[float, float], typer.Option(help="seconds between two faults")] = (30, 60),
) -> None:
    """Exit code 1 when a result differs, or memory has grown."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # through the end of the runs
    with tempfile.TemporaryDirectory(prefix="soak-") as name, ExitStack() as ends:
        folder = Path(name)
        for clip in range(30):
            write_clip(folder / "videos" / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
        memory, start = Memory(), time.monotonic()
        run = _start(ends, folder, "disturbed", _ENDLESS)
        injected = _disturb(run, memory, random.Random(seed), start + 60 * minutes, every)
        end = time.monotonic()
        _wait_until_it_trains(run)
        run.send(signal.SIGINT)
        code = run.end(120)
        _check(code == 128 + signal.SIGINT, run, f"it ended with {code}")
        losses = losses_of(_run(run))
        say(f"{injected} faults in {(end - start) / 60:.1f} minutes; now the same {len(losses)} ticks undisturbed …")
        flat = _tell(memory.growth(start, end))
        straight = _start(ends, folder, "straight", json.loads((_run(run) / "summary.json").read_text())["ticks"])
        _check(straight.end(60 + 120 * minutes) == 0, straight, "the undisturbed run failed")
        same = losses == losses_of(_run(straight)) and same_model(_run(straight), _run(run))
        restarts = sum(line["kind"] == "restart" for line in run.metrics())
        say(f"{injected} faults, {restarts} restarts; the result is {'the same, bit for bit' if same else 'DIFFERENT'}")
        raise typer.Exit(0 if same and flat else 1)


def _tree(folder: Path, ticks: int) -> dict[str, Any]:
    """Some restarts an hour are allowed here."""
    return slow_run(
        folder / "videos",
        stages=_STAGES,
        ticks=ticks,
        checkpoint__every=200,
        checkpoint__keep=2,
        network__deadline=15,
        recovery__restarts=1000,
        report__redis=True,
    )


def _start(ends: ExitStack, folder: Path, name: str, ticks: int) -> Background:
    """A run in a folder of its own, that is ended with `ends`."""
    (folder / name).mkdir()
    run = Background(write_run_file(folder / name / "run.toml", _tree(folder, ticks)))
    ends.callback(run.process.wait)
    ends.callback(run.process.terminate)
    return run


def _disturb(run: Background, memory: Memory, faults: random.Random, end: float, every: tuple[float, float]) -> int:
    """Faults until `end`, or the run's end. Returns how many there were."""
    count, due = 0, time.monotonic() + faults.uniform(*every)
    while time.monotonic() < end and run.process.poll() is None:
        memory.look(run)
        time.sleep(2)
        if time.monotonic() >= due:
            fault = faults.choice(list(_TARGETS))
            who = faults.choice(_TARGETS[fault])
            tick = _tick(run)
            with suppress(psutil.Error, OSError, KeyError, AssertionError):  # it is just being started anew
                fault.inject(run, who)
                count += 1
                say(f"{time.strftime('%H:%M:%S')}  tick {tick}: {fault.name} {who}")
            due = time.monotonic() + faults.uniform(*every)
    return count


def _wait_until_it_trains(run: Background) -> None:
    """It may just be starting anew, and would then keep nothing when it is stopped."""
    now = time.time()
    while not any(line["time"] > now + 5 and line["kind"] == "progress" for line in run.metrics()[-20:]):
        _check(time.time() < now + 180 and run.process.poll() is None, run, "it does not train any more")
        time.sleep(1)


def _tick(run: Background) -> int:
    return max((line.get("tick", 0) for line in run.metrics()[-20:]), default=0)


def _run(background: Background) -> Path:
    return background.folder / "runs" / "it"


def _tell(growth: dict[str, tuple[float, float]]) -> bool:
    """Print the memory. Returns whether nobody has grown."""
    table = Table("process", "most MiB, first third", "last third", "ratio")
    for who, (first, last) in growth.items():
        table.add_row(who, f"{first:.0f}", f"{last:.0f}", f"{last / first:.2f}")
    say(table)
    return all(last <= _GROWTH * first + _SLACK for first, last in growth.values())


def _check(well: bool, run: Background, complaint: str) -> None:
    if not well:
        say(run.output()[-4000:], complaint)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
