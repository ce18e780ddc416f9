"""Measure what a tick costs beyond the model's own compute.

    python benchmarks/tick.py [--json] [--rounds 7] [--ticks 1500] [--stages 2 4 8]

Two figures, with the product's own processes (coordinator, stage workers, ZeroMQ, RPC, gloo) and frames from memory:

1.  The tick time of two stages on two cores, divided by the time of the slowest stage's compute alone, for a balanced
    (4 + 4 of 8 equal blocks) and an unbalanced (6 + 2) split. "Alone" is two processes with the same blocks, threads
    and batches that compute at the same time and exchange nothing. Rounds of the two alternate within the run; the
    figures are medians.
2.  The CPU time per tick of a stage process outside the model, over all its threads, at D = 2, 4 and 8 with activations
    of 4 KiB.
"""

import argparse
import json
import multiprocessing
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, cpu_ms, run_script, serve, tick_ms

SLOTS, SIZE = 8, 32
ROUND_TICKS = 20
SPLITS = {"balanced": [4, 4], "unbalanced": [6, 2]}


def main() -> None:
    """Measure both figures and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--rounds", type=count, default=7, help="rounds of the comparison with compute alone")
    parser.add_argument("--ticks", type=count, default=1500, help="ticks over which CPU time is measured")
    parser.add_argument(
        "--stages", type=count, nargs="+", default=[2, 4, 8], help="numbers of stages to measure; 2 is always added"
    )
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        serve(arguments.out, partial(_measure, rounds=arguments.rounds, ticks=arguments.ticks))
        return
    options = ["--rounds", str(arguments.rounds), "--ticks", str(arguments.ticks)]
    results = {stages: run_script(stages, "tick", *options) for stages in sorted({2, *arguments.stages})}
    figures: dict[str, Any] = {
        f"tick_over_slowest_{name}": round(results[2]["ratios"][name]["ratio"], 4) for name in SPLITS
    }
    for column in ("tick_ms", "alone_ms"):
        figures[column] = {name: round(results[2]["ratios"][name][column], 2) for name in SPLITS}
    figures["cpu_ms_outside_model"] = {str(stages): round(results[stages]["cpu_ms"], 4) for stages in results}
    _print(results, figures)
    if arguments.json:
        print(json.dumps(figures))


def _print(results: dict[int, Any], figures: dict[str, Any]) -> None:
    print("split        tick ms   slowest stage alone ms   ratio (goal 1.07)")
    for name, row in results[2]["ratios"].items():
        print(f"{name:<12} {row['tick_ms']:7.2f} {row['alone_ms']:24.2f} {row['ratio']:9.3f}")
    print("\nstages   CPU ms per tick outside the model, in the stage that needs most (goal 0.4)")
    for stages, value in figures["cpu_ms_outside_model"].items():
        print(f"{stages:>6} {value:10.3f}")


def _measure(bench: Bench, rounds: int, ticks: int) -> dict[str, Any]:
    ratios = {name: _ratio(bench, split, rounds) for name, split in SPLITS.items()} if bench.count == 2 else {}
    return {"ratios": ratios, "cpu_ms": _overhead(bench, ticks)}


def _ratio(bench: Bench, split: list[int], rounds: int) -> dict[str, float]:
    """Medians of the tick time, of the slowest stage's compute alone, and of their ratio."""
    config = config_of("convolutions", split, SLOTS, SIZE, model_args={"blocks": sum(split)})
    alone = [_start_alone(config.model_dump_json(), stage) for stage in range(2)]
    bench.configure(config)
    ticks, slowest = [], []
    for number in range(rounds + 1):
        for connection, _ in alone:
            connection.send(ROUND_TICKS)
        times = [connection.recv() for connection, _ in alone]
        tick = tick_ms(bench.run(ROUND_TICKS), ROUND_TICKS)
        if number:  # the first warms up
            slowest.append(max(times))
            ticks.append(tick)
    for connection, process in alone:
        connection.send(0)
        process.join()
    ratios = [tick / own for tick, own in zip(ticks, slowest, strict=True)]
    return {"tick_ms": median(ticks), "alone_ms": median(slowest), "ratio": median(ratios)}


def _overhead(bench: Bench, ticks: int) -> float:
    """CPU milliseconds per tick outside the model, of the stage that needs most."""
    bench.configure(config_of("tiny", [1] * bench.count, SLOTS, 8, model_args={"blocks": bench.count}))
    bench.run(200)
    return cpu_ms(bench.run(ticks), ticks)


def _start_alone(config: str, stage: int) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_compute_alone, args=(theirs, config, stage), daemon=True)
    process.start()
    return ours, process


def _compute_alone(connection: Connection, settings: str, index: int) -> None:
    """One stage's compute without any exchange: receives numbers of ticks and sends the milliseconds per tick."""
    import torch

    from common.config.settings import Config
    from common.models import build, part
    from common.models.shapes import activation_shapes
    from common.rule.packet import Packet
    from common.rule.stage import Stage

    config = Config.model_validate_json(settings)
    torch.set_num_threads(1)
    model = build(config, 10)
    assert config.split is not None
    parts = [part(model, config.split, stage) for stage in range(config.stages)]
    shapes = [(torch.Size((SLOTS, 3, SIZE, SIZE)), torch.float32)]
    shapes += activation_shapes(parts, (SLOTS, 3, SIZE, SIZE))
    stage = Stage(parts[index], index, config)
    held, gradient = Packet(*shapes[index]), Packet(*shapes[index + 1])
    held.tensor.normal_()
    gradient.tensor.normal_().mul_(1e-3)
    while ticks := connection.recv():
        start = time.perf_counter()
        for _ in range(ticks):
            stage.forward(held)
            if stage.is_top:
                stage.backward_from_loss(held, None)
            else:
                stage.backward(held, gradient)
            stage.update()
        connection.send(1e3 * (time.perf_counter() - start) / ticks)


if __name__ == "__main__":
    main()
