"""Do memory, skips and auxiliary losses help with people never seen? Each person is left out in turn.

    python benchmarks/people.py [--json] [--quick] [--tune] [--folds 1 3 5 7 9] [--seeds 3] [--epochs 24] [--jobs 2] …

Trainings as in benchmarks/study.py, in the one-process reference, on the 283 clips of MSR-Action3D: four people to
learn from and the fifth to be scored on, the mean of three evaluations in the last quarter of the training.

plain        the model sees one frame at a time
memory       its first convolution also sees the differences to the frames 3 and 6 ticks ago
skips        each stage also takes the output of the stage two below (Skip-Sideways)
auxiliary    a classifier on each stage's output, its loss × 0.3, fading to nothing by half the training
together     all three

The settings of a contender are the best of as many tries for each, made by --tune on the people of the first fold that
are learnt from: three of them to learn from and the fourth to be scored on. They are kept in FOLDER/tuned.json; without
it, those in TUNED count. --quick is one fold, one seed and eight epochs.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import ROOT, count, span
from benchmarks.training import CLIPS, DEPTHS, Job, Record, Settings
from benchmarks.training_pool import finished, train_all

PEOPLE = (1, 3, 5, 7, 9)
ROWS = ("plain", "memory", "skips", "auxiliary", "together")
OF_DEPTH = ("skips", "auxiliary", "together")  # rows of more than two stages
QUICK = {"backprop": ROWS[:2], "D = 4": ROWS[:2], "D = 8": ROWS[:4]}
RATES, WINDOWS = (5e-4, 1e-3, 2e-3, 4e-3), (16, None)  # what --tune tries
TUNED: dict[str, Settings] = {
    "backprop": {"optimiser.lr": 1e-3, "data.window": 16},
    "D = 2": {"optimiser.lr": 1e-3, "data.window": 16},
    "D = 4": {"optimiser.lr": 1e-3, "data.window": 16},
    "D = 8": {"optimiser.lr": 4e-3, "data.window": 16},
    "D = 16": {"optimiser.lr": 4e-3, "data.window": 16},
}

Table = dict[str, dict[str, list[Record]]]  # by contender and row


def settings_of(contender: str, row: str) -> Settings:
    """What a row adds to a contender's settings."""
    depth = DEPTHS[contender]
    changes: Settings = {"optimiser.ema": 0.99}
    if depth > 8:
        changes["cuts"] = "layers"
    if row in ("memory", "together"):
        changes["model_args.temporal"] = "motion"
        if depth > 8:  # the memory is a layer of its own
            changes["split"] = [2, 2, *[1, 2] * 6, 2, 1]
    if row in ("skips", "together"):
        changes["skips"] = [[stage, stage + 2] for stage in range(depth - 2)]
    if row in ("auxiliary", "together"):
        changes["rule.auxiliary"] = 0.3
    return changes


def fold(scored: int, without: int | None = None) -> Settings:
    """The data of a fold: the person to be scored on, and the others, but `without`, to learn from."""
    others = "".join(str(person) for person in PEOPLE if person not in (scored, without))
    return {"data.train_include": f"*_s0[{others}]_*", "data.val_include": f"*_s0{scored}_*"}


def jobs_of(rows: dict[str, Sequence[str]], tuned: dict[str, Settings], arguments: argparse.Namespace) -> Iterator[Job]:
    """The trainings, seed by seed and fold by fold, so that those of an interrupted benchmark can be compared."""
    for seed, person in product(range(1, arguments.seeds + 1), arguments.folds):
        for contender, names in rows.items():
            for row in names:
                settings = {**tuned[contender], **fold(person), **settings_of(contender, row)}
                yield Job(row, contender, seed, arguments.epochs, settings, arguments.clips, probes=False)


def tries(contenders: Sequence[str], arguments: argparse.Namespace) -> Iterator[Job]:
    """The tries of each contender, with memory, on the people that the first fold learns from."""
    left_out = arguments.folds[0]
    scored = next(person for person in PEOPLE if person != left_out)
    for contender, rate, window in product(contenders, RATES, WINDOWS):
        own: Settings = {"optimiser.lr": rate, "data.window": window}
        settings = {**own, **fold(scored, left_out), **settings_of(contender, "memory")}
        yield Job(f"{rate:g}, {window}", contender, 0, arguments.epochs, settings, arguments.clips, probes=False)


def tune(contenders: Sequence[str], done: dict[str, Record], arguments: argparse.Namespace) -> dict[str, Settings]:
    """The best settings of each contender."""
    jobs = list(tries(contenders, arguments))
    train_all([job for job in jobs if job.key not in done], done, arguments.jobs, arguments.out)
    best: dict[str, Job] = {}
    for job in jobs:
        leader = best.setdefault(job.contender, job)
        if done[job.key]["score"] > done[leader.key]["score"]:
            best[job.contender] = job
    names = ("optimiser.lr", "data.window")
    return {contender: {name: job.settings[name] for name in names} for contender, job in best.items()}


def main() -> None:
    """Run the trainings that are still missing, and print the table."""
    arguments = _arguments()
    rows: dict[str, Sequence[str]] = {
        name: [row for row in ROWS if depth > 2 or row not in OF_DEPTH] for name, depth in DEPTHS.items()
    }
    if arguments.quick:
        arguments.folds, arguments.seeds, arguments.epochs, rows = [9], 1, 8.0, dict(QUICK)
    rows = {
        name: [row for row in names if not arguments.rows or row in arguments.rows]
        for name, names in rows.items()
        if not arguments.contenders or name.replace(" = ", "") in arguments.contenders
    }
    done, file = finished(arguments.out), arguments.out / "tuned.json"
    tuned = {**TUNED, **(json.loads(file.read_text()) if file.exists() and not arguments.quick else {})}
    if arguments.tune:
        tuned |= tune(list(rows), done, arguments)
        file.write_text(json.dumps(tuned))
    jobs = list(jobs_of(rows, tuned, arguments))
    train_all([job for job in jobs if job.key not in done], done, arguments.jobs, arguments.out)
    table: Table = {}
    for job in jobs:
        table.setdefault(job.contender, {}).setdefault(job.row, []).append(done[job.key])
    _print(table)
    if arguments.json:
        print(json.dumps({name.replace(" = ", ""): _means(own) for name, own in table.items()}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--quick", action="store_true", help="one fold, one seed, eight epochs")
    parser.add_argument("--tune", action="store_true", help="find each contender's settings first")
    parser.add_argument("--folds", type=int, nargs="+", choices=PEOPLE, default=list(PEOPLE), help="people left out")
    parser.add_argument("--seeds", type=count, default=3, help="number of seeds: 1, 2, …")
    parser.add_argument("--epochs", type=span, default=24.0, help="passes over the training clips")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[], help="only these rows")
    names = [name.replace(" = ", "") for name in DEPTHS]
    parser.add_argument("--contenders", nargs="+", choices=names, default=[], help="only these contenders")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="parallel trainings, one core each")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="folder of aAA/aAA_sSS_eEE.mp4")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "people", help="folder for the results")
    arguments = parser.parse_args()
    if not arguments.clips.is_dir():
        raise SystemExit(f"no MSR-Action3D clips: {arguments.clips} is not a folder; give --clips FOLDER")
    return arguments


def _means(own: dict[str, list[Record]]) -> dict[str, float]:
    return {row: round(mean(record["score"] for record in records), 4) for row, records in own.items()}


def _print(table: Table) -> None:
    print("\ntop-1 on the clips of people never seen: mean ± standard deviation over folds and seeds")
    for contender, own in table.items():
        for row, records in own.items():
            scores: list[Any] = [record["score"] for record in records]
            spread = f" ± {stdev(scores):.3f} of {len(scores)}" if len(scores) > 1 else ""
            print(f"{contender:<10} {row:<10} {mean(scores):.3f}{spread}")


if __name__ == "__main__":
    main()
