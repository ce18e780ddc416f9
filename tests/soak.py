"""`make soak`: a run with continual faults, compared with an undisturbed one.

python -m tests.soak --minutes 30 [--seed 0] [--every 30 60] [--mode memory] [--replicas]

Every 30 to 60 seconds, a random fault is injected into a random process, and sometimes another one within five seconds,
while the run recovers; it evaluates and writes checkpoints all the while. With --replicas it has two replicas of two
stages, each with a reader. After --minutes, the run is stopped. Its losses and parameters must equal those of an
undisturbed run of as many ticks, bit for bit; a run that heals must have learnt as well, and done no tick twice. Its
memory must not grow: each process's peak in the last third of the time is compared with that in the first third.
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
from statistics import fmean
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

_GROWTH, _SLACK = 1.10, 4.0  # largest growth of a process's memory: a factor, and MiB, as Redis fills its history
_ENDLESS = 10**8
_LAST, _HIGHER = 500, 0.1  # losses that are compared after healing, and by how much their mean may be higher
_WORKERS = "stage0", "stage1", "stage2"
_SOON = 0.25  # share of faults that follow another within 5 seconds
_TARGETS = {
    Fault.KILLED: ["coordinator", *_WORKERS, "redis", "decoder"],
    Fault.STALLED: ["coordinator", *_WORKERS, "redis", "decoder"],
    Fault.HELD_UP: ["coordinator", *_WORKERS, "redis", "decoder"],
    Fault.SLOW: ["coordinator", *_WORKERS],
    Fault.GARBAGE: ["coordinator", "stage0"],
    Fault.TRUNCATED: ["stage0"],
    Fault.MISSHAPEN: ["stage0"],
    Fault.REPEATED: ["stage0"],
    Fault.FLOOD: ["coordinator", "stage0"],
    Fault.LATE: ["stage0"],
    Fault.FULL_DISK: list(_WORKERS),
    Fault.REDIS_DOWN: ["redis"],
}

# with readers the coordinator's frames, and what decodes them, are theirs
_REPLICATED = {
    Fault.KILLED: ["coordinator", "stage0", "stage1", "stage2", "stage3", "reader0", "reader1", "redis", "decoder"],
    Fault.STALLED: ["coordinator", "stage1", "stage2", "reader0", "redis", "decoder"],
    Fault.HELD_UP: ["coordinator", "stage0", "stage3", "reader1", "redis"],
    Fault.SLOW: ["coordinator", "stage1", "stage2", "reader0"],
    Fault.FULL_DISK: ["stage0", "stage1"],
    Fault.REDIS_DOWN: ["redis"],
}

say = Console().print


class Memory:
    """The memory of a run's processes that belongs to nobody else, over time, in MiB.

    Shared memory is left out, however few processes map it at the moment: what Linux calls private includes it while a
    stage or a decoder that shares it is being replaced.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def look(self, run: Background) -> None:
        """Take a sample."""
        with suppress(psutil.Error):
            for who, pid in {**run.members(), "launcher": run.process.pid}.items():
                with suppress(psutil.Error):
                    self._seen[who].append((time.monotonic(), _own(pid)))

    def growth(self, start: float, end: float) -> dict[str, tuple[float, float]]:
        """The peaks in the first and in the last third of the time, by process."""
        third = (end - start) / 3
        peaks = {}
        for who, samples in sorted(self._seen.items()):
            first = [own for when, own in samples if when <= start + third]
            last = [own for when, own in samples if when >= end - third]
            if first and last:
                peaks[who] = max(first), max(last)
        return peaks


def _own(pid: int) -> float:
    parts = psutil.Process(pid).memory_maps()
    shared = "/memfd:", "/dev/shm/", "/dev/zero"
    own = (part.private_clean + part.private_dirty for part in parts if not part.path.startswith(shared))
    return float(sum(own)) / 2**20


def main(
    minutes: Annotated[float, typer.Option(help="minutes of faults")] = 30,
    seed: Annotated[int, typer.Option(help="seed for the choice of faults")] = 0,
    every: Annotated[tuple[float, float], typer.Option(help="least and most seconds between two faults")] = (30, 60),
    mode: Annotated[str, typer.Option(help="exact, memory (exact, from snapshots) or heal")] = "exact",
    replicas: Annotated[bool, typer.Option("--replicas", help="two replicas, each with a reader")] = False,
) -> None:
    """Exit with code 1 if the results differ or memory has grown."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # an exception, so that the runs are stopped
    with tempfile.TemporaryDirectory(prefix="soak-") as name, ExitStack() as ends:
        folder = Path(name)
        for clip in range(30):
            write_clip(folder / "videos" / "train" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=clip)
            if clip < 6:
                write_clip(folder / "videos" / "val" / f"class{clip % 3}" / f"{clip}.mp4", 60, seed=100 + clip)
        memory, start = Memory(), time.monotonic()
        run = _start(ends, folder, "disturbed", _tree(folder, _ENDLESS, mode, replicas))
        targets = _REPLICATED if replicas else _TARGETS
        injected = _disturb(run, memory, random.Random(seed), start + 60 * minutes, every, targets)
        end = time.monotonic()
        _wait_until_it_trains(run)
        run.send(signal.SIGINT)
        code = run.end(120)
        _check(code == 128 + signal.SIGINT, run, f"it ended with {code}")
        losses = losses_of(_run(run))
        say(f"{injected} faults in {(end - start) / 60:.1f} minutes; now {len(losses)} ticks without faults …")
        flat = _print_growth(memory.growth(start, end))
        ticks = json.loads((_run(run) / "summary.json").read_text())["ticks"]
        straight = _start(ends, folder, "straight", _tree(folder, ticks, mode, replicas))
        _check(straight.end(60 + 120 * minutes) == 0, straight, "the undisturbed run failed")
        restarts = sum(line["kind"] == "restart" for line in run.metrics())
        say(f"{injected} faults, {restarts} restarts")
        good = _is_equal(run, straight) if mode != "heal" else _has_healed(run, straight)
        raise typer.Exit(0 if good and flat else 1)


def _is_equal(run: Background, straight: Background) -> bool:
    losses = [[losses_of(_run(each), replica) for replica in range(2)] for each in (run, straight)]
    same = losses[0] == losses[1] and same_model(_run(straight), _run(run))
    say(f"the results are {'equal bit for bit' if same else 'DIFFERENT'}")
    return same


def _has_healed(run: Background, straight: Background) -> bool:
    lines = run.metrics()
    lost = [sum(line["lost_ticks"].values()) for line in lines if line["kind"] == "heal"]
    places = {(line.get("replica", 0), line["stage"]) for line in lines if line["kind"] == "progress"}
    own = [[line for line in lines if (line.get("replica", 0), line.get("stage")) == place] for place in places]
    twice = sum(map(_repeated, own))
    loss, undisturbed = (fmean(losses_of(_run(each))[-_LAST:]) for each in (run, straight))
    say(
        f"healed {len(lost)} times: {sum(lost)} updates lost, {twice} ticks done twice; "
        f"loss {loss:.4f}, undisturbed {undisturbed:.4f}"
    )
    return not twice and loss <= undisturbed + _HIGHER


def _repeated(reports: list[dict[str, Any]]) -> int:
    """The number of ticks that a stage reported twice."""
    begun = [line["tick"] - line["ticks"] + 1 for line in reports]
    return sum(max(0, before["tick"] + 1 - first) for before, first in zip(reports, begun[1:], strict=False))


def _tree(folder: Path, ticks: int, mode: str, replicas: bool) -> dict[str, Any]:
    """The settings of the run, with enough restarts per hour."""
    return slow_run(
        folder / "videos",
        **({"stages": 2, "replicas": 2, "data__readers": 2} if replicas else {"stages": len(_WORKERS)}),
        ticks=ticks,
        evaluate_every=150,
        data__val=str(folder / "videos" / "val"),
        checkpoint__every=200,
        checkpoint__keep=2,
        network__deadline=15,
        recovery__restarts=1000,
        recovery__mode="heal" if mode == "heal" else "exact",
        **({} if mode == "exact" else {"recovery__snapshot_every": 50}),
        report__redis=True,
    )


def _start(ends: ExitStack, folder: Path, name: str, tree: dict[str, Any]) -> Background:
    """Start a run in its own folder. It is stopped when `ends` is closed."""
    (folder / name).mkdir()
    run = Background(write_run_file(folder / name / "run.toml", tree))
    ends.callback(run.process.wait)
    ends.callback(run.process.terminate)
    return run


def _disturb(
    run: Background,
    memory: Memory,
    faults: random.Random,
    end: float,
    every: tuple[float, float],
    targets: dict[Fault, list[str]],
) -> int:
    """Inject faults until `end` or the run's end. Returns the number of faults."""
    count, due = 0, time.monotonic() + faults.uniform(*every)
    while time.monotonic() < end and run.process.poll() is None:
        memory.look(run)
        time.sleep(2)
        if time.monotonic() >= due:
            fault = faults.choice(list(targets))
            who = faults.choice(targets[fault])
            tick = _tick(run)
            with suppress(psutil.Error, OSError, KeyError, AssertionError):  # the run is just restarting
                fault.inject(run, who)
                count += 1
                say(f"{time.strftime('%H:%M:%S')}  tick {tick}: {fault.name} {who}")
            soon = faults.random() < _SOON
            due = time.monotonic() + (faults.uniform(1, 5) if soon else faults.uniform(*every))
    return count


def _wait_until_it_trains(run: Background) -> None:
    """Wait for ticks: a run that is stopped while it restarts would save nothing."""
    now = time.time()
    while not any(line["time"] > now + 5 and line["kind"] == "progress" for line in run.metrics()[-20:]):
        _check(time.time() < now + 180 and run.process.poll() is None, run, "it does not train any more")
        time.sleep(1)


def _tick(run: Background) -> int:
    return max((line.get("tick", 0) for line in run.metrics()[-20:]), default=0)


def _run(background: Background) -> Path:
    return background.folder / "runs" / "it"


def _print_growth(growth: dict[str, tuple[float, float]]) -> bool:
    """Print the peaks of memory. Returns whether no process has grown."""
    table = Table("process", "peak MiB, first third", "last third", "ratio")
    for who, (first, last) in growth.items():
        table.add_row(who, f"{first:.0f}", f"{last:.0f}", f"{last / first:.2f}")
    say(table)
    return all(last <= _GROWTH * first + _SLACK for first, last in growth.values())


def _check(ok: bool, run: Background, message: str) -> None:
    if not ok:
        say(run.output()[-4000:], message)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
