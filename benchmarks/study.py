"""When does Sideways learn as well as backpropagation? Many small trainings, each in one process, and their scores.

    python benchmarks/study.py [STUDY …] [--json] [--seeds 3] [--epochs 8] [--rows ROW …] [--jobs 2] [--out FOLDER]

Each training runs in the one-process reference (benchmarks/training.py: the data, the model and the score). Its results
equal those of a distributed run bit for bit (tests/distributed/test_exact.py), and --jobs of them run in parallel.

tune       find each contender's learning rate and related settings: equally many trials for each, seed 0
claim      each contender with its best settings, seeds 1, 2, …
tricks     remedies from the literature against delayed gradients and correlated frames, one at a time
strides    only every n-th frame, which makes the video faster; the number of ticks is unchanged
windows    only windows of a number of frames; the number of ticks is unchanged
memory     windows of 16 frames and whole clips, without and with memory of earlier frames: D = 4, a rate of 1e-3, an
           average of the weights
longer     tune and claim again with three times as many epochs, an average of the weights, and windows
stashing   asynchronous 1F1B with stashed weights (benchmarks/stashing.py), as PipeDream has it with Adam and with
           NAdam, β1 = 0.99 (Ajanthan et al., ICML 2025): tuned with as many trials as the contenders, then their seeds

deep       remedies for deep pipelines that nobody is known to have tried with Sideways, D = 8 and 16 with an average of
           the weights and windows of 16 frames: for each the best of as many rates, seed 0, then seeds 1, 2, …

Strides and windows also report the mean cosine and norm ratio between pseudo-gradients and backpropagation's gradients,
over all stages but the top, and the change from one frame to the next, ‖x(k) - x(k-1)‖ / ‖x(k)‖.

Each finished training is a line of FOLDER/runs.jsonl: an interrupted study continues after the last of them.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import ROOT, count, span
from benchmarks.training import CLIPS, REMEDY, Job, Record, Settings
from benchmarks.training_pool import finished, train_all

CONTENDERS = ("backprop", "D = 4", "D = 8")
MOMENTUM = {"optimiser.args.betas": [0.9, 0.999]}
EQUAL = {"optimiser.lr_by_mismatch": False}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
LONGER, LONGER_RATES, LONGER_WINDOWS = 3, (5e-4, 1e-3, 2e-3, 4e-3), (16, 24)
FOR_ALL: dict[str, Settings] = {
    "as tuned": {},
    "momentum 0.9": MOMENTUM,
    "mean of 2 ticks": {"rule.every": 2},
    "average of weights 0.99": {"optimiser.ema": 0.99},
    "128 slots": {"data.slots": 128},
    "orthogonal gradients 0.9": {"optimiser.orthogonal": 0.9},
    "average and orthogonal gradients": {"optimiser.ema": 0.99, "optimiser.orthogonal": 0.9},
}
AGAINST_DELAY: dict[str, Settings] = {
    "Nesterov momentum 0.9 (NAdam)": {"optimiser.name": "NAdam", "optimiser.args.betas": [0.9, 0.999]},
    "weights predicted": {f"{REMEDY}lookahead": 1.0},
    "gradients of other clips kept": {"rule.boundary": "mix"},
}
WINDOWS: dict[str, Settings] = {
    "8 frames": {"data.window": 8},
    "16 frames": {"data.window": 16},
    "16 frames, slots staggered": {"data.window": 16, f"{REMEDY}staggered": True},
    "16 frames, average of weights 0.99": {"data.window": 16, "optimiser.ema": 0.99},
    "24 frames, average of weights 0.99": {"data.window": 24, "optimiser.ema": 0.99},
}
MEMORY: dict[str, Settings] = {"plain": {}, "memory": {"model_args.temporal": "motion"}}
LENGTHS: dict[str, Settings] = {"16 frames": {"data.window": 16}, "whole clips": {}}

STASHING: dict[str, Settings] = {
    "stashed weights, Adam": {"optimiser.args.betas": [0.9, 0.999]},
    "stashed weights, NAdam 0.99": {"optimiser.name": "NAdam", "optimiser.args.betas": [0.99, 0.999]},
}
DEEP: dict[str, Settings] = {
    "as it is": {},
    "NAdam, β1 = 0.99": {"optimiser.name": "NAdam", "optimiser.args.betas": [0.99, 0.999]},
    "NAdam, β1 from 0.9 in the top stage to 0.99 in stage 0": {
        "optimiser.name": "NAdam",
        "optimiser.args.betas": [0.9, 0.999],
        f"{REMEDY}momentum_by_delay": 0.99,
    },
    "Muon, momentum 0.95": {f"{REMEDY}muon": 0.95},
    "Muon without momentum": {f"{REMEDY}muon": 0.0},
    "outputs change by a twentieth at most": {f"{REMEDY}bounded": 0.05},
    "a quarter of the slots replays earlier clips": {f"{REMEDY}replay": 0.25},
    "rates that level out": {f"{REMEDY}levelling": 1.0},
}
DEEP_RATES = (1e-3, 4e-3)
STASHING_RATES = (1.25e-4, 2.5e-4, 5e-4, *RATES, 1.6e-2)

Figures = dict[str, dict[str, dict[str, float]]]  # by row, contender and name


def trials(contender: str, rates: Sequence[float]) -> list[Settings]:
    """The settings to try for a contender: equally many for each."""
    other = MOMENTUM if contender == "backprop" else EQUAL
    return [{"optimiser.lr": lr} | extra for lr in rates for extra in ({}, other)]


def tune(epochs: float, rates: Sequence[float]) -> Iterator[Job]:
    """The trials of each contender, with seed 0."""
    for name in CONTENDERS:
        for settings in trials(name, rates):
            yield Job(describe(settings), name, 0, epochs, settings)


def tune_longer(epochs: float) -> Iterator[Job]:
    """The same trials for each contender, with seed 0."""
    for rate, window, name in product(LONGER_RATES, LONGER_WINDOWS, CONTENDERS):
        settings = {"optimiser.lr": rate, "optimiser.ema": 0.99, "data.window": window}
        yield Job(describe(settings), name, 0, epochs * LONGER, settings)


def claim(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Each contender with its best settings, with other seeds than in tuning."""
    for seed in range(1, seeds + 1):
        for name in CONTENDERS:
            yield Job(name, name, seed, epochs, best[name])


def tricks(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Each remedy on top of the best settings. Backpropagation is left out of those against delay, as it has none."""
    for seed in range(1, seeds + 1):
        for row, settings in (FOR_ALL | AGAINST_DELAY).items():
            for name in [name for name in CONTENDERS if row in FOR_ALL or name != "backprop"]:
                yield Job(row, name, seed, epochs, best[name] | settings)


def strides(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Every n-th frame only. A clip that is shorter than stage 0's mismatch gives it no gradient, as gating is on."""
    for seed in range(1, seeds + 1):
        for stride in (1, 2, 4, 8):
            for name in CONTENDERS:
                settings = best[name] | ({"data.stride": stride} if stride > 1 else {})
                yield Job(f"every {stride}" if stride > 1 else "every frame", name, seed, epochs, settings)


def windows(seeds: int, epochs: float, best: dict[str, Settings]) -> Iterator[Job]:
    """Random windows of the clips only."""
    for seed in range(1, seeds + 1):
        for row, settings in WINDOWS.items():
            for name in CONTENDERS:
                yield Job(row, name, seed, epochs, best[name] | settings)


def memory(seeds: int, epochs: float) -> Iterator[Job]:
    """What windows, each of which begins with an empty memory, cost and bring a model that remembers."""
    for seed, (row, settings), (length, window) in product(range(1, seeds + 1), MEMORY.items(), LENGTHS.items()):
        own = {"optimiser.lr": 1e-3, "optimiser.ema": 0.99, **window, **settings}
        yield Job(f"{row}, {length}", "D = 4", seed, epochs, own, probes=False)


def tune_stashing(epochs: float) -> Iterator[Job]:
    """The trials of asynchronous 1F1B with stashed weights, with seed 0."""
    for row, name, rate in product(STASHING, CONTENDERS[1:], STASHING_RATES):
        settings = {"optimiser.lr": rate, f"{REMEDY}stashed": True, **EQUAL, **STASHING[row]}
        yield Job(row, name, 0, epochs, settings, probes=False)


def tuned_rows(seeds: int, epochs: float, tuned: Sequence[Job], done: dict[str, Record]) -> Iterator[Job]:
    """Each row of trials with its best settings, with other seeds than in tuning."""
    for seed, row in product(range(1, seeds + 1), dict.fromkeys(job.row for job in tuned)):
        for name, settings in best_of([job for job in tuned if job.row == row], done).items():
            yield Job(row, name, seed, epochs, settings, probes=False)


def tune_deep(epochs: float) -> Iterator[Job]:
    """The trials of each remedy, with seed 0."""
    for (row, settings), name, rate in product(DEEP.items(), ("D = 8", "D = 16"), DEEP_RATES):
        own: Settings = {"optimiser.lr": rate, "optimiser.ema": 0.99, "data.window": 16, **settings}
        cuts: Settings = {"cuts": "layers"} if name == "D = 16" else {}
        yield Job(row, name, 0, epochs, own | cuts, probes=False)


STUDIES = {study.__name__: study for study in (claim, tricks, strides, windows)}  # that use the result of `tune`
TUNED = {"stashing": tune_stashing, "deep": tune_deep}  # each row of which is tuned by itself


def describe(settings: Settings) -> str:
    """The settings as a row's name in a table."""
    return ", ".join(
        f"{name.removeprefix('optimiser.').removeprefix('data.')} = {value}" for name, value in settings.items()
    )


def best_of(jobs: Sequence[Job], done: dict[str, Record]) -> dict[str, Settings]:
    """The settings of each contender's highest score; of equal scores, the first."""
    best: dict[str, Job] = {}
    for job in jobs:
        leader = best.setdefault(job.contender, job)
        if done[job.key]["score"] > done[leader.key]["score"]:
            best[job.contender] = job
    return {name: job.settings for name, job in best.items()}


def main() -> None:
    """Run the trainings that are still missing, and print the tables."""
    names = ["tune", *STUDIES, "memory", "longer", *TUNED]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"default: {' '.join(names)}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--seeds", type=count, default=3, help="number of seeds: 1, 2, …")
    parser.add_argument("--epochs", type=span, default=8.0, help="passes over the training clips")
    parser.add_argument("--rates", type=span, nargs="+", default=RATES, help="learning rates to try")
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose name contains one of these")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="parallel trainings, one core each")
    parser.add_argument(
        "--clips", type=Path, default=CLIPS, help="folder of aAA/aAA_sSS_eEE.mp4: action, subject, execution"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder for the results")
    arguments = parser.parse_args()
    if unknown := set(arguments.studies) - set(names):
        parser.error(f"unknown study {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    if not arguments.clips.is_dir():
        raise SystemExit(f"no MSR-Action3D clips: {arguments.clips} is not a folder; give --clips FOLDER")
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = finished(arguments.out)
    chosen, figures = arguments.studies or names, {}
    if set(chosen) - {"memory", "longer", *TUNED}:
        tuning = _jobs(tune(arguments.epochs, arguments.rates), arguments)
        figures["tune"] = _study("tune", tuning, done, arguments)
        best = best_of(tuning, done)
        for name in [name for name in STUDIES if name in chosen]:
            jobs = _jobs(STUDIES[name](arguments.seeds, arguments.epochs, best), arguments)
            figures[name] = _study(name, [job for job in jobs if _selected(job, arguments.rows)], done, arguments)
    if "memory" in chosen:
        jobs = _jobs(memory(arguments.seeds, arguments.epochs), arguments)
        figures["memory"] = _study("memory", jobs, done, arguments)
    if "longer" in chosen:
        tuning = _jobs(tune_longer(arguments.epochs), arguments)
        figures["tune longer"] = _study("tune longer", tuning, done, arguments)
        jobs = _jobs(claim(arguments.seeds, arguments.epochs * LONGER, best_of(tuning, done)), arguments)
        figures["longer"] = _study("longer", jobs, done, arguments)
    for name in [name for name in TUNED if name in chosen]:
        tuning = [job for job in _jobs(TUNED[name](arguments.epochs), arguments) if _selected(job, arguments.rows)]
        train_all([job for job in tuning if job.key not in done], done, arguments.jobs, arguments.out)
        jobs = _jobs(tuned_rows(arguments.seeds, arguments.epochs, tuning, done), arguments)
        figures[name] = _study(name, jobs, done, arguments)
    if arguments.json:
        print(json.dumps(figures))


def _jobs(jobs: Iterator[Job], arguments: argparse.Namespace) -> list[Job]:
    return [replace(job, clips=arguments.clips) for job in jobs]


def _selected(job: Job, rows: list[str]) -> bool:
    return not rows or any(part in job.row for part in rows)


def _study(name: str, jobs: list[Job], done: dict[str, Record], arguments: argparse.Namespace) -> Figures:
    train_all([job for job in jobs if job.key not in done], done, arguments.jobs, arguments.out)
    figures = _figures(jobs, done)
    _print(name, figures)
    return figures


def _figures(jobs: list[Job], done: dict[str, Record]) -> Figures:
    """By row and contender: the mean, lowest and highest score over the seeds, and the means of the probed values."""
    table: Figures = {}
    for job in jobs:
        own = [done[other.key] for other in jobs if (other.row, other.contender) == (job.row, job.contender)]
        scores = [record["score"] for record in own]
        cell = {"top1": mean(scores), "lowest": min(scores), "highest": max(scores)}
        for name in ("cosine", "norm_ratio", "change", "stashed_mib"):
            if all(name in record for record in own):
                cell[name] = mean(record[name] for record in own)
        table.setdefault(job.row, {})[job.contender] = {name: round(value, 4) for name, value in cell.items()}
    return table


def _print(study: str, table: Figures) -> None:
    print(f"\n{study}: top-1 on clips of an unseen person: mean (lowest … highest) | cosine, norm ratio, change")
    for row, cells in table.items():
        for contender, cell in cells.items():
            spread = f"{cell['top1']:.3f} ({cell['lowest']:.3f} … {cell['highest']:.3f})"
            probed = f"{cell['cosine']:.2f}  {cell['norm_ratio']:.2f}  {cell['change']:.2f}" if "cosine" in cell else ""
            print(f"{row:<44} {contender:<9} {spread:<24} {probed}")


if __name__ == "__main__":
    main()
