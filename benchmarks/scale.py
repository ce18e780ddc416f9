"""Measure the tick time for different numbers of equally slow stages.

    python benchmarks/scale.py [--json] [--stages 2 4 8 16 32] [--sleep 20] [--ticks 200] [--rounds 5]

The product's own processes, with frames from memory and activations of 4 KiB. A stage's block sleeps instead of
computing, half of the time in the forward and half in the backward pass, so that there can be more stages than cores.
The tick time must not depend on the depth of the pipeline. The table also has the CPU time per tick of a stage outside
the model, over all its threads. As every stage needs some CPU time, from some depth on the cores are fully used and
ticks take longer: the last column is the share of all cores' time in which the machine was busy. Figures are medians
over the rounds, after a warm-up.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, cpu_ms, run_script, serve, span, tick_ms

SLOTS, SIZE = 8, 8


def main() -> None:
    """Measure all numbers of stages and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--stages", type=count, nargs="+", default=[2, 4, 8, 16, 32], help="numbers of stages")
    parser.add_argument("--sleep", type=span, default=20.0, help="milliseconds that a block sleeps per tick")
    parser.add_argument("--ticks", type=count, default=200, help="ticks per round")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("sleep", "ticks", "rounds")}
    if arguments.out:
        serve(arguments.out, partial(_measure, **settings))
        return
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    figures: dict[str, dict[str, float]] = {"tick_ms": {}, "cpu_ms": {}, "busy": {}}
    print(f"stages   tick ms (sleep {arguments.sleep:g})   CPU ms outside the model   cores busy")
    for stages in arguments.stages:
        result = run_script(stages, "scale", *options)
        for name, row in figures.items():
            row[str(stages)] = round(result[name], 3)
        print(f"{stages:>6} {result['tick_ms']:>19.2f} {result['cpu_ms']:>26.2f} {result['busy']:>11.0f} %", flush=True)
    if arguments.json:
        print(json.dumps(figures))


def _measure(bench: Bench, sleep: float, ticks: int, rounds: int) -> dict[str, Any]:
    import psutil

    stages = bench.count
    model = {"blocks": stages, "milliseconds": sleep}
    bench.configure(config_of("sleeping", [1] * stages, SLOTS, SIZE, model_args=model))
    bench.run(2 * stages + 10)
    psutil.cpu_percent()  # the next call measures from here
    results = [bench.run(ticks) for _ in range(rounds)]
    busy = psutil.cpu_percent()
    tick = median(tick_ms(totals, ticks) for totals in results)
    outside = median(cpu_ms(totals, ticks) for totals in results)
    return {"tick_ms": tick, "cpu_ms": outside, "busy": busy}


if __name__ == "__main__":
    main()
