"""`make soak`: a run that something happens to all the time, beside the same run left alone.

python -m tests.soak --minutes 30 [--seed 0] [--every 30 60]

A random fault of a random process every half to one minute, for so many minutes; then the run is left to its end.
It must end with the losses and parameters of the undisturbed run, bit for bit, and without more memory than it took at
first: a process's largest share of memory in the last third of the time is compared with that in the first third. Takes
twice the minutes.
"""

import random
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from tests.conftest import write_clip
from tests.faults.faults import Fault
from tests.helpers import Background, losses_of, same_model, slow_run, write_run_file

_GROWTH = 1.10  # of a process's memory, at most
_STAGES = 3
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
                    share = psutil.Process(pid).memory_full_info().pss / 2**20
                    self._seen[who].append((time.monotonic(), share))

    def growth(self, start: float, end: float) -> dict[str, tuple[float, float]]:
        """Of each role the most MiB in the first third and in the last."""
        third = (end - start) / 3
        found = {}
        for who, samples in sorted(self._seen.items()):
            first = [share for when, share in samples if when <= start + third]
            last = [share for when, share in samples if when >= end - third]
            if first and last:
                found[who] = max(first), max(last)
        return found


def main(
    minutes: Annotated[float, typer.Option(help="of faults")] = 30,
    seed: Annotated[int, typer.Option(help="of the choice of faults")] = 0,
    every: Annotated[tuple[float, float], typer.Option(help="seconds between two faults")] = (30, 60),
) -> None:
    """Exit code 1 when a result differs, or memory has grown."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        for clip in range(30):
            write_clip(folder / "videos" / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
        ticks = _ticks(folder, minutes)
        straight = _start(folder, "straight", ticks)
        say(f"{ticks} ticks, undisturbed …")
        _check(straight.end(60 + 120 * minutes) == 0, straight)
        memory, faults, start = Memory(), random.Random(seed), time.monotonic()
        run = _start(folder, "disturbed", ticks)
        injected = _disturb(run, memory, faults, start + 60 * minutes, every)
        end = time.monotonic()
        say(f"{injected} faults in {(end - start) / 60:.1f} minutes; the rest undisturbed …")
        _check(run.end(60 + 120 * minutes) == 0, run)
        same = _result(straight) == _result(run) and same_model(_run(straight), _run(run))
        flat = _tell(memory.growth(start, end))
        restarts = sum(line["kind"] == "restart" for line in run.metrics())
        say(f"{injected} faults, {restarts} restarts; the result is {'the same, bit for bit' if same else 'DIFFERENT'}")
        raise typer.Exit(0 if same and flat else 1)


def _tree(folder: Path, ticks: int) -> dict[str, Any]:
    """Some restarts an hour are allowed here."""
    return slow_run(
        folder / "videos",
        stages=_STAGES,
        ticks=ticks,
        checkpoint__every=500,
        checkpoint__keep=2,
        network__deadline=4,
        recovery__restarts=1000,
        report__redis=True,
    )


def _ticks(folder: Path, minutes: float) -> int:
    """What a run makes in about half of the time, so that faults last to the end."""
    trial = _start(folder, "trial", 10**7)
    trial.wait_for_tick(200)
    first, since = trial.metrics()[-1]["tick"], time.monotonic()
    time.sleep(10)
    rate = (trial.metrics()[-1]["tick"] - first) / (time.monotonic() - since)
    trial.process.terminate()
    trial.end(30)
    return int(rate * minutes * 60 * 0.6)


def _start(folder: Path, name: str, ticks: int) -> Background:
    (folder / name).mkdir()
    return Background(write_run_file(folder / name / "run.toml", _tree(folder, ticks)))


def _disturb(run: Background, memory: Memory, faults: random.Random, end: float, every: tuple[float, float]) -> int:
    """Faults until `end`, or the run's end. Returns how many there were."""
    count, due = 0, time.monotonic() + faults.uniform(*every)
    while time.monotonic() < end and run.process.poll() is None:
        memory.look(run)
        time.sleep(2)
        if time.monotonic() >= due:
            fault = faults.choice(list(_TARGETS))
            who = faults.choice(_TARGETS[fault])
            tick = max((line.get("tick", 0) for line in run.metrics()[-20:]), default=0)
            with suppress(psutil.Error, OSError, KeyError, AssertionError):  # it is just being started anew
                fault.inject(run, who)
                count += 1
                say(f"{time.strftime('%H:%M:%S')}  tick {tick}: {fault.name} {who}")
            due = time.monotonic() + faults.uniform(*every)
    return count


def _run(background: Background) -> Path:
    return background.folder / "runs" / "it"


def _result(background: Background) -> list[float]:
    return losses_of(_run(background))


def _tell(growth: dict[str, tuple[float, float]]) -> bool:
    """Print the memory. Returns whether nobody has grown."""
    table = Table("process", "most MiB, first third", "last third", "ratio")
    for who, (first, last) in growth.items():
        table.add_row(who, f"{first:.0f}", f"{last:.0f}", f"{last / first:.2f}")
    say(table)
    return all(last <= _GROWTH * first for first, last in growth.values())


def _check(well: bool, run: Background) -> None:
    if not well:
        say(run.output()[-4000:])
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
