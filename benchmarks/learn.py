"""Compare the accuracy of Sideways at several depths, backpropagation and 1F1B by frames and by seconds.

    python benchmarks/learn.py [--json] [--data digits actions] [--contenders …] [--seeds 3] [--epochs E] [--out FOLDER]
                               [--set [CONTENDER:]KEY=VALUE]

Runs of the product as by `sideways train`, that differ only in the number of stages, the algorithm and the seed.

digits     examples/digits.toml with 64 slots, a constant rate, no averaged weights and no skips: moving handwritten
           digits, validated on 360 clips of unseen images
actions    examples/folders.toml with 48 × 48 grey pixels and 64 slots: human actions (MSR-Action3D depth videos) of
           four people, validated on 56 clips of a fifth

backprop is one process with all cores. 1f1b has four stages and four micro-batches of a quarter of the batch each, so
that all contenders update their weights after equally many frames. Seconds are those of training, without evaluations.

Each finished run is a line of FOLDER/runs.jsonl: an interrupted benchmark continues after the last of them. Runs with
other settings count as other runs. FOLDER/digits.png and actions.png show the means over the seeds and their spread.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import ROOT, count, python_path, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLIPS = ROOT.parent / "shared" / "data" / "msr_action3d"
CONTENDERS = {
    "sideways_d2": ["stages=2"],
    "sideways_d4": ["stages=4"],
    "sideways_d8": ["stages=8"],
    "backprop": ["stages=1", "algorithm=backprop"],
    "1f1b": ["stages=4", "algorithm=1f1b"],
}
EPOCHS = {"digits": 2.0, "actions": 12.0}
EVERY = {"digits": 270, "actions": 200}  # ticks between evaluations
QUIET = ["report.redis=false", "report.page=false", "report.tensorboard=false", "checkpoint.every=0"]
COLOURS = dict(zip(CONTENDERS, ("#1f77b4", "#17becf", "#9467bd", "#ff7f0e", "#2ca02c"), strict=True))


@dataclass(frozen=True)
class Job:
    """One training."""

    data: str
    contender: str
    seed: int
    settings: tuple[str, ...]  # KEY=VALUE, with the seed

    @property
    def run_file(self) -> Path:
        """The run file that the settings override."""
        return ROOT / "examples" / ("digits.toml" if self.data == "digits" else "folders.toml")


Record = dict[str, Any]  # a Job and its outcome, as in `sideways compare`
Point = tuple[float, float, float, float, float]  # frames, mean seconds, mean, lowest and highest top-1


def main() -> None:
    """Run the trainings that are still missing, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--data", nargs="+", choices=list(EPOCHS), default=list(EPOCHS), help="default: both")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="default: all"
    )
    parser.add_argument("--seeds", type=count, default=3, help="number of seeds: 0, 1, …")
    parser.add_argument("--epochs", type=span, help=f"passes over the training clips; default: {EPOCHS}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "learn", help="folder for the results")
    parser.add_argument(
        "--digits", type=Path, default=ROOT / "data" / "digits", help="folder of the digits, created if missing"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="[CONTENDER:]KEY=VALUE", help="override a setting; repeatable"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = {}
    for data in arguments.data:
        if data == "actions" and not CLIPS.is_dir():
            print(f"skipping actions: {CLIPS} does not exist", file=sys.stderr)
            continue
        records = [_result(job, arguments.out) for job in _jobs(data, arguments)]
        figures[data] = _figures(records)
        _print(data, records, figures[data])
        _draw(records, arguments.out / f"{data}.png")
    if arguments.json:
        print(json.dumps(figures))


def _jobs(data: str, arguments: argparse.Namespace) -> Iterator[Job]:
    """All runs, seed by seed, so that the results of an interrupted benchmark can be compared."""
    common = [f"epochs={arguments.epochs or EPOCHS[data]}", f"evaluate_every={EVERY[data]}", *QUIET]
    common += _digits(arguments.digits) if data == "digits" else _actions()
    for seed in range(arguments.seeds):
        for contender in arguments.contenders:
            extras = [_extra(text, contender) for text in arguments.set]
            settings = [*common, *CONTENDERS[contender], f"seed={seed}", *filter(None, extras)]
            yield Job(data, contender, seed, tuple(settings))


def _extra(text: str, contender: str) -> str | None:
    """The setting in a --set option; None if it is for another contender."""
    name, colon, setting = text.partition(":")
    if colon and name in CONTENDERS:
        return setting if name == contender else None
    return text


# the published tables are of a constant learning rate, and of a model without skips at every depth
PLAIN = ["data.slots=64", "optimiser.lr=2e-3", 'optimiser.schedule="constant"', "optimiser.ema=0.0", "skips=[]"]


def _digits(folder: Path) -> list[str]:
    subprocess.run([sys.executable, str(ROOT / "examples/make_digits.py"), str(folder)], check=True)  # unless it exists
    return [*PLAIN, f"data.train={folder / 'train'}", f"data.val={folder / 'val'}"]


def _actions() -> list[str]:
    pixels = ["data.size=48", "data.resize=56", "data.channels=1", "data.slots=64"]
    train = [f"data.train={CLIPS}", "data.train_include=*_s0[1357]_*"]
    return [*pixels, *train, f"data.val={CLIPS}", "data.val_include=*_s09_*"]


def _result(job: Job, out: Path) -> Record:
    """The record of a run: an earlier one if there is one, else that of a new run."""
    file = out / "runs.jsonl"
    key = json.loads(json.dumps(asdict(job)))
    for line in file.read_text().splitlines() if file.exists() else []:
        record: Record = json.loads(line)
        if key.items() <= record.items():
            return record
    record = key | _train(job, out)
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
    return record


def _train(job: Job, out: Path) -> Record:
    from common.config.run_file import load
    from coordinator.tools.compare import outcome_of

    name = f"{job.data}-{job.contender}-{job.seed}"
    shutil.rmtree(out / name, ignore_errors=True)  # of an interrupted benchmark, or of other settings
    settings = [*job.settings, f"runs={out}", f"name={name}"]
    config = load(job.run_file, settings)
    overrides = [part for setting in settings for part in ("--set", setting)]
    print(f"--- {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-P", "-m", "coordinator", "train", str(job.run_file), *overrides]
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path()}).returncode
    if code:
        raise SystemExit(code)
    return asdict(outcome_of(out / name, config))


# ---- results


def _by_contender(records: list[Record]) -> dict[str, list[Record]]:
    return {name: own for name in CONTENDERS if (own := [one for one in records if one["contender"] == name])}


def _figures(records: list[Record]) -> dict[str, dict[str, float]]:
    """By contender: the mean, lowest and highest top-1 of the last evaluations over the seeds, and the mean speed."""
    return {
        name: {
            "top1": round(mean(scores), 4),
            "lowest": round(min(scores), 4),
            "highest": round(max(scores), 4),
            "seconds": round(mean(one["seconds"] for one in own), 1),
            "frames_per_second": round(mean(one["frames_per_second"] for one in own), 1),
        }
        for name, own in _by_contender(records).items()
        for scores in [[one["score"] for one in own]]
    }


def _curve(own: list[Record]) -> list[Point]:
    """A contender's points, one per evaluation, over the seeds."""
    curve = []
    for points in zip(*(one["curve"] for one in own), strict=True):
        scores = [score for _, _, score in points]
        curve.append((points[0][0], mean(point[1] for point in points), mean(scores), min(scores), max(scores)))
    return curve


def _print(data: str, records: list[Record], figures: dict[str, dict[str, float]]) -> None:
    curves = {name: _curve(own) for name, own in _by_contender(records).items()}
    print(f"\n{data}: top-1 on unseen clips; seeds: {len({one['seed'] for one in records})}")
    print("contender       mean   lowest … highest   seconds   frames/s")
    for name, row in figures.items():
        print(
            f"{name:<13} {row['top1']:>6.3f}   {row['lowest']:.3f} … {row['highest']:.3f}  "
            f"{row['seconds']:>10.0f} {row['frames_per_second']:>10.0f}"
        )
    print("mean after frames " + "".join(f"{frames:>8.0f}" for frames, *_ in next(iter(curves.values()))))
    for name, curve in curves.items():
        print(f"{name:<18}" + "".join(f"{score:>8.3f}" for _, _, score, _, _ in curve))
        print(f"{'  after seconds':<18}" + "".join(f"{seconds:>8.0f}" for _, seconds, *_ in curve))


def _draw(records: list[Record], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_frames, by_seconds = figure.subplots(1, 2, sharey=True)
    for name, own in _by_contender(records).items():
        curve = _curve(own)
        _line(by_frames, [point[0] for point in curve], curve, name)
        _line(by_seconds, [point[1] for point in curve], curve, name)
    by_frames.set_xlabel("frames")
    by_seconds.set_xlabel("seconds of training")
    by_frames.set_ylabel("top-1 on unseen clips: mean, lowest and highest")
    by_frames.legend()
    figure.savefig(path, dpi=110)


def _line(axes: "Axes", x: list[float], curve: list[Point], name: str) -> None:
    scores, lowest, highest = ([point[column] for point in curve] for column in (2, 3, 4))
    axes.plot(x, scores, "o-", label=name, color=COLOURS[name])
    axes.fill_between(x, lowest, highest, color=COLOURS[name], alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main()
