"""Measure how settings affect the speed, each compared with the default settings.

    python benchmarks/options.py [--json] [--model vgg8] [--size 64] [--slots 8] [--stages 2] [--rounds 5] [--options …]

The product's own processes with frames from memory. None of the settings changes the frames, the batch or the number of
stages. All options run in every round, each with the split that the product chooses for it. A figure
is the median over the rounds of the option's frames per second divided by the default's in the same round: above 1, the
option is faster.

loop           torch's optimiser step, one parameter at a time, instead of the fused one
foreach        torch's optimiser step on lists of tensors
channels_last  weights, and so the activations inside a stage, in torch.channels_last; edges are unchanged
bfloat16       precision = "bfloat16": results differ from float32
compile        compile = true, torch.compile: results not equal bit for bit; the time to compile is not counted
motion, shift, conv   blocks with memory, for models that have them
auxiliary      rule.auxiliary
skips          a skip from each stage to the top one (three stages or more)
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, run_script, serve, span, tick_ms

if TYPE_CHECKING:
    from common.config.settings import Config

PLAIN = "as it is"


def main() -> None:
    """Measure all options and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--model", default="vgg8", help="a model of the zoo")
    parser.add_argument("--size", type=count, default=64, help="height and width of a frame in pixels")
    parser.add_argument("--slots", type=count, default=8, help="number of slots")
    parser.add_argument("--stages", type=count, default=2, help="number of stages")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=1.0, help="approximate duration of an option's round")
    parser.add_argument(
        "--options",
        nargs="+",
        choices=list(_changes("", 0)),
        default=["loop", "foreach", "channels_last", "bfloat16", "compile"],
        help="options to measure; default: the first five",
    )
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if "skips" in arguments.options and arguments.stages < 3:
        parser.error("skips need --stages 3 or more")
    names = ("model", "size", "slots", "stages", "rounds", "seconds", "options")
    settings = {name: getattr(arguments, name) for name in names}
    if arguments.out:
        serve(arguments.out, partial(_measure, **settings))
        return
    words = [
        [f"--{name}", *map(str, value if isinstance(value, list) else [value])] for name, value in settings.items()
    ]
    rates = run_script(arguments.stages, "options", *(word for row in words for word in row))
    figures = {
        name: round(median(rate / plain for rate, plain in zip(own, rates[PLAIN], strict=True)), 3)
        for name, own in rates.items()
    }
    print(f"{arguments.model}, {arguments.size} pixels, {arguments.slots} slots\noption          frames/s    ratio")
    for name, own in rates.items():
        print(f"{name:<14} {median(own):>9.1f} {figures[name]:>8.2f}")
    if arguments.json:
        print(json.dumps(figures))


def _changes(model: str, stages: int) -> dict[str, dict[str, Any]]:
    memory = {name: {"model_args": {"temporal": name}} for name in ("motion", "shift", "conv")}
    return {
        "loop": {"optimiser": {"args": {"fused": False, "foreach": False}}},
        "foreach": {"optimiser": {"args": {"foreach": True}}},
        "channels_last": {"model": "channels_last", "model_args": {"model": model}},
        "bfloat16": {"precision": "bfloat16"},
        "compile": {"compile": True},
        **memory,
        "auxiliary": {"rule": {"auxiliary": 0.3, "auxiliary_until": 1.0}, "ticks": 10**9},  # it does not fade
        "skips": {"skips": [[stage, stages - 1] for stage in range(stages - 2)]},
    }


def _measure(
    bench: Bench, model: str, size: int, slots: int, stages: int, rounds: int, seconds: float, options: list[str]
) -> dict[str, list[float]]:
    """Frames per second by option, in each round."""
    chosen = {PLAIN: {}, **{name: changes for name, changes in _changes(model, stages).items() if name in options}}
    configs = {name: _config(bench, changes, model, size, slots, stages) for name, changes in chosen.items()}
    warm = 2 * stages + 4  # ticks
    ticks: dict[str, int] = {}
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds):
        for name, config in configs.items():
            bench.configure(config)
            bench.run(warm)
            if name not in ticks:
                ticks[name] = max(warm, round(1e3 * seconds / tick_ms(bench.run(warm), warm)))
            rates[name].append(1e3 * slots / tick_ms(bench.run(ticks[name]), ticks[name]))
    return rates


def _config(bench: Bench, changes: dict[str, Any], model: str, size: int, slots: int, stages: int) -> "Config":
    """The settings of an option with the split that the product chooses, measured without compilation."""
    settings = {"model": model, **changes}
    one_each = config_of(settings.pop("model"), [1] * stages, slots, size, **settings)
    return one_each.model_copy(update={"split": bench.choose(one_each.model_copy(update={"compile": False}))})


if __name__ == "__main__":
    main()
