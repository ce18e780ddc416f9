"""Tick time against the number of stages, of stages that all take as long.

    python benchmarks/scale.py [--json] [--stages 2 4 8 16 32] [--sleep 20] [--ticks 200] [--rounds 5]

The product's own processes, frames from memory, activations of 4 KiB. A stage's block sleeps instead of computing, half
of the time in its forward and half in its backward pass, so that more stages than cores can be had: the tick must stay
what it is however deep the pipeline. Beside it the CPU time of a stage a tick outside the model, all its threads. A
stage needs some CPU all the same, so from some D on a machine's cores are full, and ticks must take longer: the last
column says how much of all cores' time the machine was busy. Medians of the rounds, after some ticks that warm up.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, cpu_ms, launch, serve, span, tick_ms

SLOTS, SIZE = 8, 8


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--stages", type=count, nargs="+", default=[2, 4, 8, 16, 32], help="numbers of stages")
    parser.add_argument("--sleep", type=span, default=20.0, help="milliseconds a tick")
    parser.add_argument("--ticks", type=count, default=200, help="of a round")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("sleep", "ticks", "rounds")}
    if arguments.out:
        serve(arguments.out, partial(_measure, **given))
        return
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    figures: dict[str, dict[str, float]] = {"tick_ms": {}, "cpu_ms": {}}
    print(f"stages   tick ms (sleep {arguments.sleep:g})   CPU ms outside the model   cores busy")
    for stages in arguments.stages:
        found = launch(stages, "scale", *options)
        for name, row in figures.items():
            row[str(stages)] = round(found[name], 3)
        print(f"{stages:>6} {found['tick_ms']:>19.2f} {found['cpu_ms']:>26.2f} {found['busy']:>11.0f} %", flush=True)
    if arguments.json:
        print(json.dumps(figures))


def _measure(bench: Bench, sleep: float, ticks: int, rounds: int) -> dict[str, Any]:
    import psutil

    stages = bench.count
    model = {"blocks": stages, "milliseconds": sleep}
    bench.configure(config_of("sleeping", [1] * stages, SLOTS, SIZE, model_args=model))
    bench.run(2 * stages + 10)
    psutil.cpu_percent()  # counts from here
    found = [bench.run(ticks) for _ in range(rounds)]
    busy = psutil.cpu_percent()
    tick = median(tick_ms(totals, ticks) for totals in found)
    outside = median(cpu_ms(totals, ticks) for totals in found)
    return {"tick_ms": tick, "cpu_ms": outside, "busy": busy}


if __name__ == "__main__":
    main()
