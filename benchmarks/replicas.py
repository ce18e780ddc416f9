"""Measure every arrangement of some processes, replicas × stages, against torch's DistributedDataParallel.

    python benchmarks/replicas.py [--json] [--processes 2 | --table 8] [--case vgg8_64_b8] [--rounds 5] [--seconds 1]

A case is MODEL_SIZE_bB: a model of the zoo, frames of SIZE × SIZE pixels, B slots in all. Every arrangement is a run of
the product's own workers with frames from memory and the split that the product chooses, each process with one thread.
In each round it alternates with DistributedDataParallel on the same number of processes and the same B frames a step
(`ddp` of benchmarks/peers.py). "vs_ddp" is the median over the rounds of the arrangement's frames per second divided by
ddp's in the same round. The arrangement of one stage is data parallelism too. "predicted" is what `sideways partition
--processes` says of the frames per second, which leaves out that processes share memory and exchange tensors.

--table 8 is --processes 8, 1 × 8, 2 × 4, 4 × 2 and 8 × 1, with a summary: JSON of {"processes", "cores", "case",
"ddp_frames_per_second", "rows": as without it, "fastest": {"measured", "predicted"}}, where the rows also have
"vs_predicted", the measured frames per second divided by the predicted ones. It wants as many cores as processes: on
fewer all of them share the cores, and the prediction is for those too.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import CLASSES, Bench, count, run_script, serve, span, tick_ms
from benchmarks.contenders import Case
from benchmarks.plain_torch import PlainTorch

if TYPE_CHECKING:
    from common.config.settings import Config

CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Measure all arrangements and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--processes", type=count, default=min(CORES, 8), help="number of stage workers")
    parser.add_argument("--table", type=count, metavar="PROCESSES", help="the same with a summary, for so many")
    parser.add_argument("--case", default="vgg8_64_b8", metavar="MODEL_SIZE_bB", help="default: vgg8_64_b8")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=1.0, help="approximate duration of a round")
    parser.add_argument("--replicas", type=count, default=1, help=argparse.SUPPRESS)  # of one run
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    arguments.processes = arguments.table or arguments.processes
    case = Case.of(arguments.case)
    if case is None or case.slots % arguments.processes:
        parser.error(f"--case {arguments.case}: expected MODEL_SIZE_bB, with B a multiple of --processes for ddp")
    if arguments.out:
        work = partial(_measure, case=case, rounds=arguments.rounds, seconds=arguments.seconds)
        serve(arguments.out, work, arguments.replicas)
        return
    figures = _figures(arguments, case)
    _print(arguments.case, arguments.processes, figures)
    if arguments.json:
        print(json.dumps(_summary(arguments.case, arguments.processes, figures) if arguments.table else figures))


def _figures(arguments: argparse.Namespace, case: Case) -> dict[str, Any]:
    from coordinator.tools.partition import arrangements, compare

    found = arrangements(arguments.processes, case.slots)
    predicted = compare(case.config([1]).model_copy(update={"split": None, "cuts": "layers"}), CLASSES, found, print)
    figures = {}
    for arrangement, rate in zip(found, predicted.rates, strict=True):
        options = ["--case", arguments.case, "--processes", str(arguments.processes)]
        options += ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
        measured = run_script(arguments.processes, "replicas", "--replicas", str(arrangement.replicas), *options)
        pairs = zip(measured["rates"], measured["ddp"], strict=True)
        figures[f"{arrangement.replicas}x{arrangement.stages}"] = {
            "frames_per_second": round(median(measured["rates"]), 1),
            "ddp_frames_per_second": round(median(measured["ddp"]), 1),
            "vs_ddp": round(median(own / other for own, other in pairs), 3),
            "predicted": round(rate, 1),
            "split": measured["split"],
        }
    return figures


def _summary(case: str, processes: int, figures: dict[str, Any]) -> dict[str, Any]:
    """The arrangements of a table with what they have in common."""

    def fastest(by: str) -> str:
        return max(figures, key=lambda name: float(figures[name][by]))

    return {
        "processes": processes,
        "cores": CORES,
        "case": case,
        "ddp_frames_per_second": round(median(row["ddp_frames_per_second"] for row in figures.values()), 1),
        "rows": {
            name: {**row, "vs_predicted": round(row["frames_per_second"] / row["predicted"], 3)}
            for name, row in figures.items()
        },
        "fastest": {"measured": fastest("frames_per_second"), "predicted": fastest("predicted")},
    }


def _print(case: str, processes: int, figures: dict[str, Any]) -> None:
    print(f"{case}: {processes} processes on {CORES} cores\nreplicas × stages   frames/s   ÷ ddp   predicted   split")
    for name, row in figures.items():
        split = "+".join(map(str, row["split"]))
        own = f"{row['frames_per_second']:>11.1f} {row['vs_ddp']:>7.2f} {row['predicted']:>11.1f}"
        print(f"{name.replace('x', ' × '):<17} {own}   {split}")


# ---- in the coordinator of one arrangement's run


def _measure(bench: Bench, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Frames per second in each round, of the arrangement and of ddp."""
    config = _config(bench, case)
    ddp = PlainTorch(case.config([1]), config.total_stages, 1)
    warm = 2 * config.stages + 2  # ticks
    bench.configure(config)
    bench.run(warm)
    ticks = max(warm, round(1e3 * seconds / tick_ms(bench.run(warm), warm)))
    steps = max(1, round(2 * seconds / _seconds(ddp, 2)))
    rates: dict[str, list[float]] = {"rates": [], "ddp": []}
    for _ in range(rounds):
        bench.run(warm)
        rates["rates"].append(1e3 * case.slots / tick_ms(bench.run(ticks), ticks))
        rates["ddp"].append(case.slots * steps / _seconds(ddp, steps))
    ddp.close()
    return {**rates, "split": config.split}


def _config(bench: Bench, case: Case) -> "Config":
    """The settings of the arrangement with the split that the product chooses."""
    one_each = case.config([1] * bench.count).model_copy(update={"replicas": bench.replicas})
    return one_each.model_copy(update={"split": bench.choose(one_each)})


def _seconds(ddp: PlainTorch, steps: int) -> float:
    ddp.run(1)
    return ddp.run(steps)


if __name__ == "__main__":
    main()
