"""Compare the frames per second of Sideways and other algorithms on the same model, batch, optimiser and cores.

    python benchmarks/peers.py [--json] [--cases vgg8_64_b8 …] [--rounds 5] [--seconds 1] [--stages 2]

A case is MODEL_SIZE_bB: a model of the zoo, frames of SIZE × SIZE pixels, B slots. Its contenders:

sideways       the product: D stage workers, B frames and one update per tick
bp_1core       plain torch backpropagation in one process on one core, B frames per step
bp_all_cores   the same on all cores
gpipe, 1f1b    the product's workers with torch.distributed.pipelining's schedules and M = D, 2D, 4D or 8D micro-batches
               of B frames: M × B frames and one update per step
ddp            torch's DistributedDataParallel: a process per core, each with an equal share of the B frames
copies         one bp_1core per core, each with its own model: the throughput of the cores if nothing is split or
               exchanged. It is below bp_1core times the number of cores, as the cores share caches and memory

Where there are several processes, each has one thread. The split is the one that `sideways train` chooses between
layers (cuts = "layers"), and the same for all contenders that have one. Each contender runs for about --seconds per
round. A ratio is the median over the rounds of Sideways' frames per second divided by the contender's in the same
round. Efficiency is the stages' compute time / (D × tick time). "MiB kept" is the most that autograd keeps for backward
passes in each process, measured by saved-tensor hooks in a separate run that is not timed.

With B = 1, as for one live stream, there is no batch to split: DistributedDataParallel cannot run, and pipelines have
to wait for the frames of their micro-batches (M = 1, with an idling pipeline, is added). Then the time from a frame's
arrival to the update that it causes is measured too: for Sideways in each stage, traced by the workers' clocks; for the
others it is one step.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import CLASSES, Bench, count, run_script, serve, span
from benchmarks.contenders import Case, Contender, Plain, Workers

if TYPE_CHECKING:
    from common.partition.prediction import Prediction

CASES = ("vgg8_64_b8", "vgg8_32_b4", "vgg8_112_b8", "resnet18_112_b8", "vgg8_64_b32", "vgg8_64_b1")
CORES = len(os.sched_getaffinity(0))
TRACED = 40  # ticks
WHY = {  # printed where a contender is faster than Sideways
    "bp_1core": "exchanges nothing; the other cores gain Sideways less than its exchange costs",
    "bp_all_cores": "exchanges nothing and has no split to balance: all cores work on each layer of a batch",
    "gpipe": "a long step has a short bubble, and one update where Sideways has M; it stores M batches for that",
    "1f1b": "a long step has a short bubble, and one update where Sideways has M; it needs M batches at a time",
    "copies": "each trains its own model and splits or exchanges nothing: an upper bound",
    "ddp": "equal shares need no balancing, and it exchanges gradients once per step instead of activations",
}


def main() -> None:
    """Measure all cases and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument(
        "--cases", nargs="+", default=CASES, metavar="MODEL_SIZE_bB", help=f"default: {' '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=1.0, help="approximate duration of a contender's round")
    parser.add_argument("--stages", type=count, default=2, help="number of stages D")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        case = Case.of(arguments.cases[0])
        assert case is not None
        serve(arguments.out, partial(_measure, case=case, rounds=arguments.rounds, seconds=arguments.seconds))
        return
    _check(parser, arguments.cases, arguments.stages)
    options = ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
    figures = {}
    for name in arguments.cases:
        result = run_script(arguments.stages, "peers", "--cases", name, *options)
        figures[name] = _figures(result)
        _print(name, result, figures[name], arguments.stages)
    if arguments.json:
        print(json.dumps(figures))


def _check(parser: argparse.ArgumentParser, names: list[str], stages: int) -> None:
    from common.models import ZOO

    if stages < 2:
        parser.error("--stages 1 is backpropagation, which is always measured: give 2 or more")
    models = [name for name in ZOO if name != "autoencoder"]  # it is no classifier
    for name in names:
        case = Case.of(name)
        if case is None or case.model not in models:
            parser.error(f"--cases {name}: expected MODEL_SIZE_bB, such as {CASES[0]}; models: {', '.join(models)}")


# ---- in the coordinator


def _measure(bench: Bench, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    prediction = _balance(bench, case)
    contenders = _contenders(bench, case, prediction.split)
    for contender in contenders:
        with tempfile.TemporaryDirectory() as folder:
            contender.count(Path(folder))
        contender.result.steps = max(1, round(seconds / contender.run(2) * 2))
        contender.result.efficiencies.clear()
        contender.result.imbalances.clear()
    for _ in range(rounds):
        for contender in contenders:
            result = contender.result
            result.rates.append(result.steps * result.frames / contender.run(result.steps))
    for contender in contenders:
        contender.close()
    results = [asdict(contender.result) for contender in contenders]
    return {"prediction": asdict(prediction), "results": results, "update_ms": _update_ms(contenders)}


def _balance(bench: Bench, case: Case) -> "Prediction":
    """The split that the product chooses, with its predicted times."""
    from common.messages.stage_calls import StageCalls
    from common.partition.balance import balance
    from common.partition.prediction import predict
    from common.partition.rebalance import rebalance
    from coordinator.run.setup.split import timed_at_once

    one_each = case.config([1] * bench.count)
    costs = bench.stages.call(0, StageCalls.measure, one_each, CLASSES)
    times = [cost.milliseconds for cost in costs]
    split = rebalance(times, balance(times, bench.count), timed_at_once(bench.stages, one_each, CLASSES))
    return predict(costs, split, 0.0, CORES, 0.0)


def _contenders(bench: Bench, case: Case, split: list[int]) -> list[Contender]:
    micro_batches = [bench.count * factor for factor in (1, 2, 4, 8)]
    extra = [1] if case.slots == 1 else []
    contenders: list[Contender] = [Workers(bench, case, split, "sideways", 0)]
    contenders += [Plain(case, "bp_1core", 1, 1), Plain(case, "bp_all_cores", 1, CORES)]
    contenders += [Workers(bench, case, split, "gpipe", parts) for parts in (*extra, *micro_batches)]
    contenders += [Workers(bench, case, split, "1f1b", parts) for parts in micro_batches]
    contenders.append(Plain(case, "copies", CORES, 1, copies=True))
    if CORES > 1 and case.slots % CORES == 0:
        contenders.append(Plain(case, "ddp", CORES, 1))
    return contenders


def _update_ms(contenders: list[Contender]) -> dict[str, list[float]]:
    """Milliseconds from a frame's arrival to its update, in each stage or process; empty with more than one slot."""
    sideways, *others = contenders
    if sideways.result.frames > 1:
        return {}
    assert isinstance(sideways, Workers)
    steps = {one.result.kind: [1e3 / median(one.result.rates)] for one in others if one.result.frames == 1}
    return {"sideways": sideways.update_ms(TRACED), **steps}


# ---- output


def _figures(measured: dict[str, Any]) -> dict[str, Any]:
    """The ratios, above 1 where Sideways is faster."""
    ours, *others = measured["results"]
    figures: dict[str, Any] = {"vs_bp_1core": None, "vs_bp_all_cores": None, "vs_1f1b": {}, "vs_gpipe": {}}
    figures["vs_copies"] = figures["vs_ddp"] = None  # vs_ddp stays None if the batch cannot be split
    for other in others:
        ratio = round(median(own / rate for own, rate in zip(ours["rates"], other["rates"], strict=True)), 3)
        if other["parts"]:
            figures[f"vs_{other['kind']}"][str(other["parts"])] = ratio
        else:
            figures[f"vs_{other['kind']}"] = ratio
    figures["efficiency"] = round(median(ours["efficiencies"]), 3)
    figures["imbalance"] = round(median(ours["imbalances"]), 3)  # slowest stage / mean stage, while running
    if measured["update_ms"]:
        figures["update_ms"] = {name: [round(ms, 2) for ms in times] for name, times in measured["update_ms"].items()}
    return figures


def _print(name: str, measured: dict[str, Any], figures: dict[str, Any], stages: int) -> None:
    prediction, results = measured["prediction"], measured["results"]
    predicted = max(prediction["stage_ms"]) / mean(prediction["stage_ms"])
    print(
        f"\n{name}: {stages} stages on {CORES} cores, split {'+'.join(map(str, prediction['split']))}; "
        f"slowest / mean stage: {predicted:.2f} predicted, {median(results[0]['imbalances']):.2f} measured\n"
        "contender          frames/s   sideways is   efficiency  frames per update   MiB kept per process"
    )
    for result in results:
        print(_line(result, _ratio(figures, result)))
    for kind, reason in WHY.items():
        ahead = [result for result in results if result["kind"] == kind and _ratio(figures, result) < 0.995]
        if ahead:
            by = ", ".join(f"{_title(result)} {1 / _ratio(figures, result):.2f} ×" for result in ahead)
            print(f"faster than Sideways: {by}: {reason}")
    if figures["vs_ddp"] is None:
        print(f"ddp: left out, as a batch of {results[0]['frames']} cannot be split between {CORES} processes")
    for kind, times in measured["update_ms"].items():
        print(f"ms from frame to update, {kind}: " + ", ".join(f"{ms:.1f}" for ms in times))


def _title(result: dict[str, Any]) -> str:
    return f"{result['kind']} M = {result['parts']}" if result["parts"] else result["kind"]


def _ratio(figures: dict[str, Any], result: dict[str, Any]) -> float:
    ratio = figures.get(f"vs_{result['kind']}", 1.0)
    return float(ratio[str(result["parts"])] if result["parts"] else ratio)


def _line(result: dict[str, Any], ratio: float) -> str:
    efficiency = f"{median(result['efficiencies']):.2f}" if result["efficiencies"] else "-"
    kept = " / ".join(f"{size / 2**20:.1f}" for size in result["kept"])
    return (
        f"{_title(result):<18} {median(result['rates']):>8.1f} {ratio:>10.2f} × {efficiency:>12} "
        f"{result['frames']:>18}   {kept}"
    )


if __name__ == "__main__":
    main()
