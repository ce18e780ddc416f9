"""Measure the memory that stage 0 keeps for its backward passes, for different numbers of stages.

    python benchmarks/memory.py [--json] [--stages 2 4 8]

The product's own processes, one block per stage, with the same block and micro-batches of 8 rows in every case:
Sideways with a batch of 8 rows; torch.distributed.pipelining's GPipe and 1F1B with as many micro-batches as there are
stages, the fewest that 1F1B accepts. The figure is the most bytes that are alive at any time in tensors that autograd
saves in stage 0's forward passes (saved-tensor hooks, without parameters). It is deterministic.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, run_script, serve

ROWS, SIZE = 8, 32
STAGES = (2, 4, 8)
ALGORITHMS = ("sideways", "1f1b", "gpipe")


def main() -> None:
    """Measure all algorithms and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--stages", type=count, nargs="+", default=STAGES, help="numbers of stages")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        serve(arguments.out, _measure)
        return
    results = [(stages, run_script(stages, "memory")) for stages in arguments.stages]
    mib = [(stages, {name: round(kept / 2**20, 2) for name, kept in result.items()}) for stages, result in results]
    figures = {name: {str(stages): row[name] for stages, row in mib} for name in ALGORITHMS}
    print("most MiB kept by stage 0         " + "".join(f"D = {stages:<6}" for stages in arguments.stages))
    for name, row in figures.items():
        print(f"{name:<33}" + "".join(f"{value:<10.2f}" for value in row.values()))
    if arguments.json:
        print(json.dumps(figures))


def _measure(bench: Bench) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: _kept(bench, name, Path(folder) / name) for name in ALGORITHMS}


def _kept(bench: Bench, algorithm: str, out: Path) -> int:
    """The most bytes kept, in some ticks of Sideways until after its warm-up, or in some steps of another algorithm."""
    sideways, stages = algorithm == "sideways", bench.count
    arguments = {"out": str(out), "blocks": stages}
    slots = ROWS if sideways else ROWS * stages
    bench.configure(config_of("counted", [1] * stages, slots, SIZE, algorithm=algorithm, model_args=arguments))
    bench.run(4 * stages if sideways else 3)
    return int(out.read_text())


if __name__ == "__main__":
    main()
