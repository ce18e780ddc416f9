"""What settings that change no frame, batch or number of stages do to the speed: each against the product as it is.

    python benchmarks/options.py [--json] [--model vgg8] [--size 64] [--slots 8] [--rounds 5] [--options …]

The product's own processes, two stages, frames from memory. All options run in every round, and their split is the one
that the product chooses with each; compared are the frames a second of the same round, and the median of the ratios
counts, above 1 where the option is faster.

loop           torch's optimiser step parameter by parameter, in place of its fused one
foreach        its step on lists of tensors
channels_last  weights as [out, height, width, in], and so the activations inside a stage; edges stay as they are
bfloat16       precision = "bfloat16": another arithmetic
compile        compile = true: torch.compile, not bit for bit; its minutes of compiling are not counted
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, launch, serve, span, tick_ms

if TYPE_CHECKING:
    from common.config.settings import Config

STAGES = 2
WARM = 2 * STAGES + 4  # ticks
PLAIN = "as it is"


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--model", default="vgg8", help="of the zoo")
    parser.add_argument("--size", type=count, default=64, help="side of a frame in pixels")
    parser.add_argument("--slots", type=count, default=8)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=span, default=1.0, help="of each option in each round")
    parser.add_argument("--options", nargs="+", choices=list(_changes("")), default=list(_changes("")))
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("model", "size", "slots", "rounds", "seconds", "options")}
    if arguments.out:
        serve(arguments.out, partial(_measure, **given))
        return
    words = [[f"--{name}", *map(str, value if isinstance(value, list) else [value])] for name, value in given.items()]
    rates = launch(STAGES, "options", *(word for row in words for word in row))
    figures = {
        name: round(median(rate / plain for rate, plain in zip(own, rates[PLAIN], strict=True)), 3)
        for name, own in rates.items()
    }
    print(f"{arguments.model}, {arguments.size} pixels, {arguments.slots} slots\noption          frames/s    ratio")
    for name, own in rates.items():
        print(f"{name:<14} {median(own):>9.1f} {figures[name]:>8.2f}")
    if arguments.json:
        print(json.dumps(figures))


def _changes(model: str) -> dict[str, dict[str, Any]]:
    return {
        "loop": {"optimiser": {"args": {"fused": False, "foreach": False}}},
        "foreach": {"optimiser": {"args": {"foreach": True}}},
        "channels_last": {"model": "channels_last", "model_args": {"model": model}},
        "bfloat16": {"precision": "bfloat16"},
        "compile": {"compile": True},
    }


def _measure(
    bench: Bench, model: str, size: int, slots: int, rounds: int, seconds: float, options: list[str]
) -> dict[str, list[float]]:
    """Frames a second, by option and round."""
    chosen = {PLAIN: {}, **{name: changes for name, changes in _changes(model).items() if name in options}}
    configs = {name: _config(bench, changes, model, size, slots) for name, changes in chosen.items()}
    ticks: dict[str, int] = {}
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds):
        for name, config in configs.items():
            bench.configure(config)
            bench.run(WARM)
            if name not in ticks:
                ticks[name] = max(WARM, round(1e3 * seconds / tick_ms(bench.run(WARM), WARM)))
            rates[name].append(1e3 * slots / tick_ms(bench.run(ticks[name]), ticks[name]))
    return rates


def _config(bench: Bench, changes: dict[str, Any], model: str, size: int, slots: int) -> "Config":
    """With the split that the product chooses. What is to be compiled is split as it is without."""
    given = {"model": model, **changes}
    one_each = config_of(given.pop("model"), [1] * STAGES, slots, size, **given)
    return one_each.model_copy(update={"split": bench.choose(one_each.model_copy(update={"compile": False}))})


if __name__ == "__main__":
    main()
