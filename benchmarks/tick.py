"""What a tick costs beyond the model's own compute.

    python benchmarks/tick.py [--json]

Two figures, with the product's own processes (coordinator, stage workers, ZeroMQ, RPC, gloo), frames from memory:

1.  Tick time of two stages on two cores against the slowest stage's compute alone, for a balanced (4 + 4 of 8 equal
    blocks) and an unbalanced (6 + 2) split. "Alone" is two processes with the same blocks, threads and batches that
    compute at the same time and exchange nothing; rounds of the two alternate within the run, medians are compared.
2.  CPU time of a stage process a tick outside the model, all its threads, at D = 2, 4 and 8 with activations of 4 KiB.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SLOTS, SIZE = 8, 32
ROUNDS, TICKS = 7, 20
OVERHEAD_TICKS = 1500
SPLITS = {"balanced": [4, 4], "unbalanced": [6, 2]}


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--out", help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        _member(Path(arguments.out))
        return
    results: dict[int, Any] = {stages: _launch(stages) for stages in (2, 4, 8)}
    figures: dict[str, Any] = {
        f"tick_over_slowest_{name}": round(results[2]["ratios"][name]["ratio"], 4) for name in SPLITS
    }
    figures["cpu_ms_outside_model"] = {str(stages): round(results[stages]["cpu_ms"], 4) for stages in results}
    _print(results, figures)
    if arguments.json:
        print(json.dumps(figures))


def _print(results: dict[int, Any], figures: dict[str, Any]) -> None:
    print("split        tick ms   slowest stage alone ms   ratio (bar 1.10)")
    for name, row in results[2]["ratios"].items():
        print(f"{name:<12} {row['tick_ms']:7.2f} {row['alone_ms']:24.2f} {row['ratio']:9.3f}")
    print("\nstages   CPU ms outside the model, per tick, of the stage that has most (bar 1.0)")
    for stages, value in figures["cpu_ms_outside_model"].items():
        print(f"{stages:>6} {value:10.3f}")


def _launch(stages: int) -> Any:
    from common.process import ALLOCATOR
    from coordinator.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        os.environ.update(ALLOCATOR, PYTHONPATH=str(ROOT))  # the same allocator for both sides of a comparison
        code = launch(stages, ["-m", "benchmarks.tick", "--out", str(out)])
        if code:
            raise SystemExit(code)
        return json.loads(out.read_text())


def _member(out: Path) -> None:
    """One process of a run: rank 0 coordinates and measures, the others become stage workers."""
    if os.environ["RANK"] != "0":
        os.execv(sys.executable, [sys.executable, "-m", "coordinator", "join", "--role", "stage"])  # noqa: S606
    from common.group import join
    from common.process import exit_now

    me = join("coordinator")
    bench = Bench(me)
    results: dict[str, Any] = {}
    if me.stages == 2:
        results["ratios"] = {name: bench.ratio(split) for name, split in SPLITS.items()}
    results["cpu_ms"] = bench.overhead()
    out.write_text(json.dumps(results))
    bench.close()
    exit_now(0)


class Bench:
    """The coordinator's part: configure, feed the same batch again and again, take the reports."""

    def __init__(self, me: Any) -> None:
        from common.control import Stages
        from common.group import start_rpc
        from coordinator.course import Batch
        from coordinator.monitor.inbox import Inbox

        self.count = me.stages
        self.reports: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.inbox = Inbox(me.stages, lambda report: self.reports[report["stage"]].append(report), lambda number: None)
        me.store.set("reports", self.inbox.address)
        start_rpc(me)
        self.stages = Stages(me.stages, 120, self.inbox.poll)
        self.batch = _one_clip_a_row(Batch((SLOTS, 3, SIZE, SIZE)))

    def ratio(self, split: list[int]) -> dict[str, float]:
        """Tick time over the slowest stage's compute alone."""
        config = _config(self.count, "convolutions", {"blocks": sum(split)}, split, SIZE)
        alone = [_start_alone(config.model_dump_json(), stage) for stage in range(2)]
        feeder = self._configure(config)
        ticks, slowest = [], []
        for number in range(ROUNDS + 1):
            for connection, _ in alone:
                connection.send(TICKS)
            times = [connection.recv() for connection, _ in alone]
            self._run(feeder, number * TICKS, TICKS)
            if number:  # the first warms up
                slowest.append(max(times))
                ticks.append(max(1e3 * reports[-1]["seconds"] / TICKS for reports in self.reports.values()))
        for connection, process in alone:
            connection.send(0)
            process.join()
        feeder.close()
        ratios = [tick / own for tick, own in zip(ticks, slowest, strict=True)]
        return {"tick_ms": median(ticks), "alone_ms": median(slowest), "ratio": median(ratios)}

    def overhead(self) -> float:
        """CPU milliseconds outside the model, of the stage that has most."""
        config = _config(self.count, "tiny", {"blocks": self.count}, [1] * self.count, 8)
        from coordinator.course import Batch

        self.batch = _one_clip_a_row(Batch((SLOTS, 3, 8, 8)))
        feeder = self._configure(config)
        self._run(feeder, 0, 200)
        self.reports.clear()
        self._run(feeder, 200, OVERHEAD_TICKS)
        feeder.close()
        return max(
            1e3 * sum(report["outside_cpu_seconds"] for report in reports) / OVERHEAD_TICKS
            for reports in self.reports.values()
        )

    def close(self) -> None:
        """Let the stages go."""
        self.inbox.leave()
        self.stages.quit()

    def _configure(self, config: Any) -> Any:
        from common.control import Plan
        from coordinator.feed import Feeder

        addresses = self.stages.configure(Plan(config, 10, tuple(config.split), 1))
        return Feeder(addresses, self.batch.frames.nbytes, 120, self.inbox.poll)

    def _run(self, feeder: Any, first: int, ticks: int) -> None:
        from coordinator.course import Step

        self.inbox.expect_done()
        self.stages.train(first, first + ticks)
        step = Step(self.batch, self.batch, last=False)
        for tick in range(first, first + ticks):
            feeder.push(0, tick, step)
            self.inbox.poll()
        self.inbox.wait_done(120)


def _one_clip_a_row(batch: Any) -> Any:
    batch.clips[:], batch.labels[:] = range(SLOTS), 0
    return batch


def _config(stages: int, model: str, arguments: dict[str, Any], split: list[int], size: int) -> Any:
    from common.config import parse

    tree = {
        "model": f"{ROOT / 'benchmarks/models.py'}:{model}",
        "model_args": arguments,
        "stages": stages,
        "split": split,
        "ticks": 1,
        "threads": 1,
        "device": "cpu",
        "data": {"train": ".", "slots": SLOTS, "size": size},
        "report": {"every": 60},
    }
    return parse(tree, "benchmark")


def _start_alone(config: str, stage: int) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_compute_alone, args=(theirs, config, stage), daemon=True)
    process.start()
    return ours, process


def _compute_alone(connection: Connection, settings: str, index: int) -> None:
    """One stage's compute without any exchange. Answers a number of ticks with the milliseconds that each took."""
    import torch

    from common.config import Config
    from common.models import activation_shapes, build, part
    from common.packet import Packet
    from common.stage import Stage

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
