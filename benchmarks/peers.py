"""Frames a second of Sideways against what else there is, on the same model, batch, optimiser and cores.

    python benchmarks/peers.py [--json] [--cases vgg8_64_b8 …] [--rounds 5] [--seconds 1] [--stages 2]

A case is MODEL_SIZE_bB: a model of the zoo, frames of SIZE × SIZE pixels, B slots. Its contenders:

sideways       the product: D stage workers, a tick takes B frames, every tick ends with an update
backprop       plain torch in one process, B frames a step, on one core and on all of them
gpipe, 1f1b    the product's own workers with torch.distributed.pipelining's schedules: M = D, 2D, 4D and 8D
               micro-batches of B frames, so that one step, with one update, takes M × B frames
ddp            torch's DistributedDataParallel: a process a core, each with an equal share of the B frames
copies         backprop on one core as often as there are cores, each on a model of its own: what the cores give where
               nothing is split or exchanged. What is missing to that many times bp_1core's frames, the cores lose to
               each other, by the caches and the memory that they share

Several processes have one thread each. The split is the one that `sideways train` would choose between layers
(cuts = "layers"), the same for all that have one. Every round runs each contender for about --seconds; a ratio is the
median over the rounds of Sideways' frames per second divided by the other's in the same round. Efficiency is the
stages' compute / (D × tick). Kept is what autograd keeps in each process for backward passes, at most (saved-tensor
hooks, in a run of its own that is not timed).

With B = 1, one live stream, there is no batch to split: DistributedDataParallel cannot run, and micro-batches are
frames that have to be waited for (M = 1, a pipeline that idles, is added). There the time from a frame's arrival to the
update that it causes is told too, for each stage: traced by the workers' own clocks; of the others it is one step.
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

from benchmarks.bench import CLASSES, Bench, count, launch, serve, span
from benchmarks.contenders import Case, Contender, Plain, Workers

if TYPE_CHECKING:
    from common.partition.balance import Prediction

CASES = ("vgg8_64_b8", "vgg8_32_b4", "vgg8_112_b8", "resnet18_112_b8", "vgg8_64_b32", "vgg8_64_b1")
CORES = len(os.sched_getaffinity(0))
TRACED = 40  # ticks
WHY = {  # one can be ahead; said where it is
    "bp_1core": "it exchanges nothing, and the other cores did not make up for what Sideways exchanges",
    "bp_all_cores": "it exchanges nothing and has no split to balance: its cores share each layer of a frame batch",
    "gpipe": "a long step has a short bubble and one update where Sideways has M; it keeps M batches for it",
    "1f1b": "a long step has a short bubble and one update where Sideways has M; M batches must be at hand for it",
    "copies": "they train a model each, and have nothing to split or to exchange: what is left to gain",
    "ddp": "equal shares need no balance, and it exchanges gradients once a step instead of activations",
}


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL_SIZE_bB", help=f"of {', '.join(CASES)}, …")
    parser.add_argument("--rounds", type=count, default=5, help="rounds that the medians are of")
    parser.add_argument("--seconds", type=span, default=1.0, help="of a contender in a round, about")
    parser.add_argument("--stages", type=count, default=2, help="D")
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
        found = launch(arguments.stages, "peers", "--cases", name, *options)
        figures[name] = _figures(found)
        _print(name, found, figures[name], arguments.stages)
    if arguments.json:
        print(json.dumps(figures))


def _check(parser: argparse.ArgumentParser, names: list[str], stages: int) -> None:
    from common.models import ZOO

    if stages < 2:
        parser.error("--stages 1 is backpropagation: 2 or more can be compared with it")
    models = [name for name in ZOO if name != "autoencoder"]  # which has no classes
    for name in names:
        case = Case.of(name)
        if case is None or case.model not in models:
            parser.error(
                f"--cases {name}: write MODEL_SIZE_bB, such as {CASES[0]}, with a model of {', '.join(models)}"
            )


# ---- in the coordinator


def _measure(bench: Bench, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    promise = _balance(bench, case)
    contenders = _contenders(bench, case, promise.split)
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
    return {"promise": asdict(promise), "results": results, "update_ms": _update_ms(contenders)}


def _balance(bench: Bench, case: Case) -> "Prediction":
    """The split that the product chooses, and what it promises."""
    from common.messages.stage_calls import StageCalls
    from common.partition.balance import balance, predict
    from common.partition.rebalance import rebalance
    from coordinator.run.split import timed_at_once

    one_each = case.config([1] * bench.count)
    costs = bench.stages.call(0, StageCalls.measure, one_each, CLASSES)
    times = [cost.milliseconds for cost in costs]
    split = rebalance(times, balance(times, bench.count), timed_at_once(bench.stages, one_each, CLASSES))
    return predict(costs, split, 0.0, CORES, 0.0)


def _contenders(bench: Bench, case: Case, split: list[int]) -> list[Contender]:
    many = [bench.count * factor for factor in (1, 2, 4, 8)]
    alone = case.slots == 1
    found: list[Contender] = [Workers(bench, case, split, "sideways", 0)]
    found += [Plain(case, "bp_1core", 1, 1), Plain(case, "bp_all_cores", 1, CORES)]
    found += [Workers(bench, case, split, "gpipe", parts) for parts in ([1, *many] if alone else many)]
    found += [Workers(bench, case, split, "1f1b", parts) for parts in many]
    found.append(Plain(case, "copies", CORES, 1, copies=True))
    if CORES > 1 and case.slots % CORES == 0:
        found.append(Plain(case, "ddp", CORES, 1))
    return found


def _update_ms(contenders: list[Contender]) -> dict[str, list[float]]:
    """With one slot: milliseconds from a frame's arrival to the update that it causes, in each stage or process."""
    sideways, *others = contenders
    if sideways.result.frames > 1:
        return {}
    assert isinstance(sideways, Workers)
    steps = {one.result.kind: [1e3 / median(one.result.rates)] for one in others if one.result.frames == 1}
    return {"sideways": sideways.update_ms(TRACED), **steps}


# ---- in the terminal


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """The ratios, above 1 where Sideways is ahead."""
    ours, *others = found["results"]
    figures: dict[str, Any] = {"vs_bp_1core": None, "vs_bp_all_cores": None, "vs_1f1b": {}, "vs_gpipe": {}}
    figures["vs_copies"] = figures["vs_ddp"] = None  # the latter stays so where there is no batch to split
    for other in others:
        ratio = round(median(own / rate for own, rate in zip(ours["rates"], other["rates"], strict=True)), 3)
        if other["parts"]:
            figures[f"vs_{other['kind']}"][str(other["parts"])] = ratio
        else:
            figures[f"vs_{other['kind']}"] = ratio
    figures["efficiency"] = round(median(ours["efficiencies"]), 3)
    if found["update_ms"]:
        figures["update_ms"] = {name: [round(ms, 2) for ms in times] for name, times in found["update_ms"].items()}
    return figures


def _print(name: str, found: dict[str, Any], figures: dict[str, Any], stages: int) -> None:
    promise, results = found["promise"], found["results"]
    timed = max(promise["stage_ms"]) / mean(promise["stage_ms"])
    print(
        f"\n{name}: {stages} stages on {CORES} cores, split {'+'.join(map(str, promise['split']))}; "
        f"slowest / mean stage {timed:.2f} block by block, {median(results[0]['imbalances']):.2f} while running\n"
        "contender          frames/s   sideways is   efficiency   frames an update   MiB kept, each process"
    )
    for result in results:
        print(_line(result, _ratio(figures, result)))
    for kind, reason in WHY.items():
        ahead = [result for result in results if result["kind"] == kind and _ratio(figures, result) < 0.995]
        if ahead:
            by = ", ".join(f"{_title(result)} {1 / _ratio(figures, result):.2f} ×" for result in ahead)
            print(f"ahead of Sideways: {by}: {reason}")
    if figures["vs_ddp"] is None:
        print(f"ddp: a batch of {results[0]['frames']} cannot be split between {CORES} processes")
    for kind, times in found["update_ms"].items():
        print(f"frame to update, ms, {kind}: " + ", ".join(f"{ms:.1f}" for ms in times))


def _title(result: dict[str, Any]) -> str:
    return f"{result['kind']} M = {result['parts']}" if result["parts"] else result["kind"]


def _ratio(figures: dict[str, Any], result: dict[str, Any]) -> float:
    found = figures.get(f"vs_{result['kind']}", 1.0)
    return float(found[str(result["parts"])] if result["parts"] else found)


def _line(result: dict[str, Any], ratio: float) -> str:
    efficiency = f"{median(result['efficiencies']):.2f}" if result["efficiencies"] else "-"
    kept = " / ".join(f"{size / 2**20:.1f}" for size in result["kept"])
    return (
        f"{_title(result):<18} {median(result['rates']):>8.1f} {ratio:>10.2f} × {efficiency:>12} "
        f"{result['frames']:>18}   {kept}"
    )


if __name__ == "__main__":
    main()
