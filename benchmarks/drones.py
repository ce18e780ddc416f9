"""Do four stages learn to reproduce and to predict frames as well as backpropagation? With and without memory.

    python benchmarks/drones.py [--json] [--tasks autoencode predict] [--seeds 1] [--ticks 925] [--jobs 1] …

examples/autoencode.toml (autoencoder of width 16, 64 × 64 pixels, 8 slots, a rate of 2e-3) on infra-red clips of birds,
aeroplanes, helicopters and drones: eight clips to learn from, four to be scored on. Each training runs in the
one-process reference, which the distributed run equals bit for bit. The figure is the mean squared error, in units of
the normalised pixels, on the clips not learnt from. Predictions are of the frame 4 frames later.

plain          as the run file has it
memory         the first convolution also sees the differences to the frames 3 and 6 ticks ago
equal rates    optimiser.lr_by_mismatch = false
skips          stages 2 and 3 also take the output of stage 0

Each finished training is a line of FOLDER/runs.jsonl: an interrupted benchmark continues after the last of them.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import ROOT, count
from common.config.run_file import apply, parse
from common.config.settings import Config
from common.rule.clip_sums import ClipSums
from common.rule.inference import Inference
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from common.rule.stage import Stage
from coordinator.video.datasets import Datasets
from coordinator.video.targets import StepStream, packet_of

CLIPS = ROOT.parent / "shared" / "data" / "drones"
MEMORY, SKIPS = {"model_args.temporal": "motion"}, {"skips": [[0, 2], [0, 3]]}
EQUAL = {"optimiser.lr_by_mismatch": False}
ROWS: dict[str, dict[str, Any]] = {
    "backprop": {"stages": 1, "split": [8]},
    "backprop, memory": {"stages": 1, "split": [8], **MEMORY},
    "D = 4": {},
    "D = 4, memory": MEMORY,
    "D = 4, equal rates": EQUAL,
    "D = 4, memory, equal rates": {**MEMORY, **EQUAL},
    "D = 4, skips": SKIPS,
    "D = 4, memory, equal rates, skips": {**MEMORY, **EQUAL, **SKIPS},
}
Example = tuple[Packet, Target]
Job = tuple[str, str, int]  # task, row, seed


def main() -> None:
    """Run the trainings, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--tasks", nargs="+", choices=("autoencode", "predict"), default=["autoencode", "predict"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="default: all")
    parser.add_argument("--seeds", type=count, default=1, help="number of seeds: 0, 1, …")
    parser.add_argument("--ticks", type=count, default=925, help="length of a training")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="parallel trainings, one core each")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="folder of KIND/NAME_001.mp4, …")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override in all rows")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "drones", help="folder for the results")
    arguments = parser.parse_args()
    if not arguments.clips.is_dir():
        raise SystemExit(f"no infra-red clips: {arguments.clips} is not a folder; give --clips FOLDER")
    errors = train_all(list(product(arguments.tasks, arguments.rows, range(arguments.seeds))), arguments)
    figures: dict[str, dict[str, float]] = {}
    print("mean squared error on clips not learnt from, mean over seeds")
    for task, row in product(arguments.tasks, arguments.rows):
        error = mean(errors[task, row, seed] for seed in range(arguments.seeds))
        figures.setdefault(task, {})[row] = round(error, 4)
        print(f"{task:<11} {row:<36} {error:.4f}", flush=True)
    if arguments.json:
        print(json.dumps(figures))


def train_all(jobs: Sequence[Job], arguments: argparse.Namespace) -> dict[Job, float]:
    """The mean squared error of each training; those that FOLDER/runs.jsonl has are not run again."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "runs.jsonl"
    done = dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}
    configs = {job: config_of(*job, arguments) for job in jobs}
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        missing = {config.model_dump_json() for config in configs.values()} - done.keys()
        futures = {pool.submit(train, Config.model_validate_json(key)): key for key in sorted(missing)}
        for future in as_completed(futures):
            key = futures[future]
            done[key] = future.result()
            with file.open("a") as lines:
                lines.write(json.dumps([key, done[key]]) + "\n")
    return {job: done[config.model_dump_json()] for job, config in configs.items()}


def config_of(task: str, row: str, seed: int, arguments: argparse.Namespace) -> Config:
    """The settings of a training, validated as those of a run file."""
    tree: dict[str, Any] = {
        "task": task,
        "model": "autoencoder",
        "model_args": {"width": 16},
        "ticks": arguments.ticks,
        "seed": seed,
        "threads": 1,
        "device": "cpu",
        "data": {
            "train": str(arguments.clips),
            "val": str(arguments.clips),
            "train_include": "*_00[12].mp4",
            "val_include": "*_003.mp4",
            "slots": 8,
            "size": 64,
            "resize": 72,
            "threads": 1,
        },
        "optimiser": {"lr": 2e-3},
    }
    changes = {"stages": 4, "split": [2, 2, 2, 2], **({"ahead": 4} if task == "predict" else {}), **ROWS[row]}
    for setting in [*(f"{name}={json.dumps(value)}" for name, value in changes.items()), *arguments.set]:
        apply(setting, tree)
    return parse(tree, "the drones")


def train(config: Config) -> float:
    """Train the reference. Returns the mean squared error on the validation clips."""
    torch.set_num_threads(1)
    assert config.ticks is not None
    datasets = Datasets(config, lambda text: None, lambda: None)
    stages = build_stages(config, 1, config.ticks)
    reference = Reference(stages, config.frame_shape)
    stream = datasets.open_training(None, config)
    endless = examples(StepStream(stream, config, ends=False), config)
    for packet, target in islice(endless, config.ticks):
        reference.tick(packet, target)
    stream.close()
    return evaluate(config, stages, datasets)


def examples(steps: StepStream, config: Config) -> Iterator[Example]:
    """The frame batches of a stream with their targets."""
    tick = 0
    while (step := steps.next()) is not None:
        target = packet_of(step.target, config, tick)
        yield packet_of(step.batch, config, tick), Target(target.tensor, target.clips)
        tick += 1


def evaluate(config: Config, stages: list[Stage], datasets: Datasets) -> float:
    """The mean squared error, computed as the product does."""
    stream = datasets.open_evaluation()
    for stage in stages:
        stage.evaluating(True)
    inference, sums, waiting = Inference(stages, config.frame_shape), ClipSums(), dict[int, Target]()
    frames = examples(StepStream(stream, config, ends=True), config)
    for example in (*frames, *[None] * inference.delay):
        if example is not None:
            packet, waiting[packet.frame] = example
        result = inference.drain() if example is None else inference.tick(packet)
        if result is not None:
            held, y = result
            target = waiting.pop(held.frame)
            sums.add_outputs(held.clips, held.labels, y, target.tensor, target.clips)
    stream.close()
    return float(sums.scores().means.mean())


if __name__ == "__main__":
    main()
