"""Shared by the benchmarks: a run of the product's own processes, fed from memory as fast as it accepts frames.

`run_script` starts a benchmark script as the coordinator, next to the stage workers. In the coordinator, `serve` passes
a Bench to the script: configure the stages, run ticks on one constant frame batch, read what the stages report.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from common.config.settings import Config
    from common.messages.stage_report import Progress
    from common.processes.membership import Membership
    from common.telemetry.spans import Rows
    from coordinator.video.batch import Batch

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "benchmarks/models.py"
CLASSES = 10
DEADLINE = 120.0  # seconds
Totals = dict[str, float]  # the sums over a stage's reports


def python_path() -> str:
    """PYTHONPATH for processes of the benchmarks: this repository, and what is on it already."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def run_script(workers: int, script: str, *arguments: str, readers: int = 0) -> Any:
    """Run benchmarks/`script`.py as a run's coordinator with `--out FILE` and `arguments`. Returns FILE's JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        start(workers, f"benchmarks.{script}", "--out", str(out), *arguments, readers=readers)
        return json.loads(out.read_text())


def start(workers: int, module: str, *arguments: str, readers: int = 0) -> None:
    """Run `module`.main in `workers` + 1 + `readers` processes by the product's launcher. Exits if it fails."""
    from common.processes.allocator import ALLOCATOR

    code = (
        f"from {module} import main; from common.processes.layout import Layout; "
        f"from coordinator.launch.launcher import Supervision, launch; "
        f"exit(launch(main, Layout({workers}, readers={readers}), Supervision()))"
    )
    # both sides of a comparison use the same allocator: processes that the coordinator starts inherit it
    variables = {**os.environ, **ALLOCATOR, "PYTHONPATH": python_path()}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=variables)
    if done.returncode:
        raise SystemExit(done.returncode)


def serve(out: Path, work: Callable[["Bench"], Any], replicas: int = 1, stages: int = 0) -> None:
    """One process of a run: rank 0 writes the result of `work` to `out` as JSON, the others become stage workers.

    `stages` of a replica; 0: one a worker.
    """
    if os.environ["RANK"] != "0":
        os.execv(sys.executable, [sys.executable, "-m", "coordinator", "join", "--role", "stage"])  # noqa: S606
    from common.errors import SidewaysError
    from common.processes.joining import join
    from common.processes.output import exit_now, print_error

    try:
        bench = Bench(join("coordinator").arranged(replicas, stages))
        out.write_text(json.dumps(work(bench)))
        bench.close()
    except SidewaysError as error:
        print_error(str(error))
        exit_now(error.code)
    except BaseException:
        traceback.print_exc()
        exit_now(1)  # a normal exit would wait for RPC's threads
    exit_now(0)


def count(text: str) -> int:
    """An argparse type: an integer, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


def span(text: str) -> float:
    """An argparse type: a number between 0 and 3600, both excluded."""
    try:
        length = float(text)
    except ValueError:
        length = 0.0
    if not 0 < length < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 3600")
    return length


class Bench:
    """The coordinator of a benchmark's run.

    Attributes:
        count: The number of stages of a replica.
        replicas: The number of replicas.
        batch: The frame batch that every tick is fed, of the configured shape.
        stages: Makes the stage calls.
    """

    batch: "Batch"

    def __init__(self, me: "Membership") -> None:
        from coordinator.run.pipeline import Pipeline

        self.count, self.replicas = me.stages, me.replicas
        self._reports: dict[int, list[Progress]] = defaultdict(list)  # by worker
        self._pipeline = Pipeline(me, DEADLINE, self._add)
        self.stages = self._pipeline.stages
        self._tick = 0

    def configure(self, config: "Config") -> None:
        """Rebuild every stage, and draw a frame batch in which every row is a clip of its own."""
        from common.messages.stage_calls import Plan
        from coordinator.video.batch import Batch

        assert config.split is not None
        self.batch, self._tick = Batch(config.frame_shape), 0
        self.batch.clips[:] = range(config.data.slots)
        self.batch.frames[:], self.batch.labels[:] = draw(config)
        self._pipeline.configure(Plan(config.of_replica, CLASSES, tuple(config.split), 1))

    def choose(self, config: "Config") -> list[int]:
        """The split that the product chooses, from measurements by these stages."""
        from common.messages.stage_calls import StageCalls
        from coordinator.run.setup.split import choose

        config = config.of_replica
        return choose(config, CLASSES, self.stages.call(0, StageCalls.measure, config, CLASSES), self.stages)

    def run(self, ticks: int) -> list[Totals]:
        """Train for `ticks` ticks. Returns the totals of each stage's reports, of all replicas' stages."""
        from coordinator.video.targets import Step

        self._reports.clear()
        last, step = self._tick + ticks, Step(self.batch, self.batch, last=False)
        self._pipeline.train(self._tick, last)
        for tick in range(self._tick, last):
            self._pipeline.push(0, tick, step)
        self._pipeline.wait_done()
        self._tick = last
        return [_totals(self._reports[worker]) for worker in range(self.count * self.replicas)]

    def _add(self, report: "Progress") -> None:
        self._reports[report.replica * self.count + report.stage].append(report)

    def peak_bytes(self) -> list[int]:
        """Peak memory of each stage up to the end of the last run (common/telemetry/peak_memory.py)."""
        return [self._reports[stage][-1].peak_memory_bytes for stage in range(self.count)]

    def trace(self, ticks: int) -> list["Rows"]:
        """Train for `ticks` ticks with tracing on. Returns the spans of each stage (common/telemetry/spans.py)."""
        from common.messages.stage_calls import StageCalls

        self.stages.call_all(StageCalls.trace, self._tick, ticks)
        self.run(ticks)
        return self.stages.begin(StageCalls.trace_rows, DEADLINE).answers()

    def close(self) -> None:
        """Stop the stages."""
        self._pipeline.close()


def draw(config: "Config") -> tuple["NDArray[np.uint8]", "NDArray[np.int64]"]:
    """Random frames, uint8 of the configured shape, and labels, int64 [slots]; the same in every call."""
    import numpy as np

    random = np.random.default_rng(0)
    frames = random.integers(0, 256, config.frame_shape, np.uint8)
    return frames, random.integers(0, CLASSES, config.data.slots)


def _totals(reports: list["Progress"]) -> Totals:
    sums = {name: sum(getattr(report, name) for report in reports) for name in ("seconds", "compute_seconds")}
    outside = [report.outside_cpu_seconds for report in reports if report.outside_cpu_seconds is not None]
    return {**sums, "outside_cpu_seconds": sum(outside)} if outside else sums


def tick_ms(totals: list[Totals], ticks: int) -> float:
    """Milliseconds per tick of the slowest stage."""
    return 1e3 * max(total["seconds"] for total in totals) / ticks


def cpu_ms(totals: list[Totals], ticks: int) -> float:
    """CPU milliseconds per tick outside the model, over all threads, of the stage that needs most."""
    return 1e3 * max(total["outside_cpu_seconds"] for total in totals) / ticks


def config_of(model: str, split: list[int], slots: int, size: int, **changes: Any) -> "Config":
    """The settings of a run with one thread per stage, on the CPU unless `changes` say otherwise.

    `model` is a model of the zoo, a function in benchmarks/models.py, or FILE:FUNCTION.
    """
    from common.config.run_file import parse
    from common.models import ZOO

    tree = {
        "model": model if model in ZOO or ":" in model else f"{MODELS}:{model}",
        "stages": len(split),
        "split": split,
        "ticks": 1,
        "threads": 1,
        "device": "cpu",
        "data": {"train": ".", "slots": slots, "size": size},
        "network": {"deadline": DEADLINE},
        "report": {"every": 60},
        **changes,
    }
    return parse(tree, "benchmark")
