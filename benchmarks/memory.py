"""What stage 0 keeps for its backward passes, against the number of stages.

    python benchmarks/memory.py [--json]

The product's own processes, one block a stage, the same block and micro-batch of 8 rows in every case: Sideways with a
batch of 8 rows; GPipe and 1F1B, torch.distributed.pipelining's, with as many micro-batches of 8 rows as there are
stages, the fewest that 1F1B takes. Counted are the bytes of the tensors that autograd saves in stage 0's forward passes
(saved-tensor hooks; parameters left out), as long as they are alive: the most at any time. Deterministic.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ROWS, SIZE = 8, 32
STAGES = (2, 4, 8)
ALGORITHMS = ("sideways", "1f1b", "gpipe")


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--out", help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        _member(Path(arguments.out))
        return
    found = [(stages, _launch(stages)) for stages in STAGES]
    figures = {name: {str(stages): result[name] for stages, result in found} for name in ALGORITHMS}
    print("MiB kept by stage 0 at most      " + "".join(f"D = {stages:<6}" for stages in STAGES))
    for name, row in figures.items():
        print(f"{name:<33}" + "".join(f"{value / 2**20:<10.2f}" for value in row.values()))
    if arguments.json:
        print(json.dumps(figures))


def _launch(stages: int) -> Any:
    from coordinator.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = str(ROOT)
        code = launch(stages, ["-m", "benchmarks.memory", "--out", folder])
        if code:
            raise SystemExit(code)
        return {name: int((Path(folder) / name).read_text()) for name in ALGORITHMS}


def _member(folder: Path) -> None:
    """One process of a run: rank 0 coordinates, the others become stage workers."""
    if os.environ["RANK"] != "0":
        os.execv(sys.executable, [sys.executable, "-m", "coordinator", "join", "--role", "stage"])  # noqa: S606
    from common.control import Stages
    from common.group import join, start_rpc
    from common.process import exit_now
    from coordinator.monitor.inbox import Inbox

    me = join("coordinator")
    inbox = Inbox(me.stages, lambda report: None, lambda number: None)
    me.store.set("reports", inbox.address)
    start_rpc(me)
    stages = Stages(me.stages, 120, inbox.poll)
    for name in ALGORITHMS:
        _train(_config(me.stages, name, folder / name), stages, inbox)
    inbox.leave()
    stages.quit()
    exit_now(0)


def _train(config: Any, stages: Any, inbox: Any) -> None:
    """Ticks of Sideways past its warm-up, or steps of the others."""
    from common.control import Plan
    from coordinator.course import Batch, Step
    from coordinator.feed import Feeder

    batch = Batch(config.frame_shape)
    batch.clips[:], batch.labels[:] = range(len(batch.clips)), 0
    addresses = stages.configure(Plan(config, 10, tuple(config.split), config.ticks))
    feeder = Feeder(addresses, batch.frames.nbytes, 120, inbox.poll)
    inbox.expect_done()
    stages.train(0, config.ticks)
    for tick in range(config.ticks):
        feeder.push(0, tick, Step(batch, batch, last=False))
        inbox.poll()
    inbox.wait_done(120)
    feeder.close()


def _config(stages: int, algorithm: str, out: Path) -> Any:
    from common.config import parse

    parts = 1 if algorithm == "sideways" else stages
    tree = {
        "algorithm": algorithm,
        "model": f"{ROOT / 'benchmarks/models.py'}:counted",
        "model_args": {"out": str(out), "blocks": stages},
        "stages": stages,
        "split": [1] * stages,
        "ticks": 4 * stages if algorithm == "sideways" else 3,
        "threads": 1,
        "device": "cpu",
        "data": {"train": ".", "slots": ROWS * parts, "size": SIZE},
    }
    return parse(tree, "benchmark")


if __name__ == "__main__":
    main()
