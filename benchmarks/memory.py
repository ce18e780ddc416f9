"""What stage 0 keeps for its backward passes, against the number of stages.

    python benchmarks/memory.py [--json] [--stages 2 4 8]

The product's own processes, one block a stage, the same block and micro-batch of 8 rows in every case: Sideways with a
batch of 8 rows; GPipe and 1F1B, torch.distributed.pipelining's, with as many micro-batches of 8 rows as there are
stages, the fewest that 1F1B takes. Counted are the bytes of the tensors that autograd saves in stage 0's forward passes
(saved-tensor hooks; parameters left out), as long as they are alive: the most at any time. Deterministic.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench, config_of, count, launch, serve

ROWS, SIZE = 8, 32
STAGES = (2, 4, 8)
ALGORITHMS = ("sideways", "1f1b", "gpipe")


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--stages", type=count, nargs="+", default=STAGES, help="numbers of stages")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        serve(arguments.out, _measure)
        return
    found = [(stages, launch(stages, "memory")) for stages in arguments.stages]
    figures = {name: {str(stages): result[name] for stages, result in found} for name in ALGORITHMS}
    print("MiB kept by stage 0 at most      " + "".join(f"D = {stages:<6}" for stages in arguments.stages))
    for name, row in figures.items():
        print(f"{name:<33}" + "".join(f"{value / 2**20:<10.2f}" for value in row.values()))
    if arguments.json:
        print(json.dumps(figures))


def _measure(bench: Bench) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: _kept(bench, name, Path(folder) / name) for name in ALGORITHMS}


def _kept(bench: Bench, algorithm: str, out: Path) -> int:
    """Bytes, in ticks of Sideways past its warm-up, or steps of the others."""
    sideways, stages = algorithm == "sideways", bench.count
    arguments = {"out": str(out), "blocks": stages}
    slots = ROWS if sideways else ROWS * stages
    bench.configure(config_of("counted", [1] * stages, slots, SIZE, algorithm=algorithm, model_args=arguments))
    bench.run(4 * stages if sideways else 3)
    return int(out.read_text())


if __name__ == "__main__":
    main()
