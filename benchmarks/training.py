"""A training of study.py and people.py: the one-process reference on human actions, scored as the product does.

vgg8 of width 16 on MSR-Action3D's depth videos (20 classes, 32 × 32 grey pixels, 64 slots) of people 1, 3, 5 and 7. The
score is the top-1 on the 56 clips of person 9, as the mean of three evaluations in the last quarter of the training,
where the cosine schedule makes the learning rate small.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.bench import ROOT
from benchmarks.probing import Probe
from benchmarks.remedies import apply as remedy
from benchmarks.remedies import stashed_bytes
from benchmarks.replay import Replay
from common.config.run_file import apply, parse
from common.config.settings import Config
from common.rule.clip_sums import ClipSums
from common.rule.inference import Inference
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from common.rule.stage import Stage
from coordinator.monitor.evaluation_scores import evaluation_of
from coordinator.video.batch import Batch
from coordinator.video.datasets import Datasets
from coordinator.video.targets import packet_of

CLIPS = ROOT.parent / "shared" / "data" / "msr_action3d"
DEPTHS = {"backprop": 1, "D = 2": 2, "D = 4": 4, "D = 8": 8, "D = 16": 16}
# of blocks, but for D = 16: there a convolution, and its norm with its activation, are a stage each, and so are the
# head's pooling and its classifier
SPLITS = {1: [8], 2: [4, 4], 4: [2, 2, 2, 2], 8: [1] * 8, 16: [1, 2] * 7 + [2, 1]}
EVALUATIONS, QUARTER = 12, 3  # evaluation intervals of a training; the evaluations that end the last three count
PROBES = 12
REMEDY = "remedy."  # the prefix of settings that only this benchmark knows

Settings = dict[str, Any]  # by dotted names


@dataclass(frozen=True)
class Job:
    """One training."""

    row: str
    contender: str
    seed: int
    epochs: float
    settings: Settings = field(default_factory=dict)
    clips: Path = CLIPS
    probes: bool = True  # compare pseudo-gradients with backpropagation's

    @property
    def key(self) -> str:
        """Identifies the training, without its row: several studies may have it."""
        return json.dumps([self.contender, self.seed, self.epochs, self.settings, str(self.clips)], sort_keys=True)


Record = dict[str, Any]  # key, and what `train` returns


def train(job: Job) -> Record:
    """Run a training. Raises the errors with which the product would end."""
    torch.set_num_threads(1)
    start = time.monotonic()
    config = config_of(job)
    datasets = Datasets(config, lambda text: None, lambda: None)
    validation = list(evaluation_frames(config, datasets))
    scores: list[float] = []
    probe = Probe(config, len(datasets.train.classes)) if job.probes and config.stages > 1 else None
    ticks = ticks_of(job, config, datasets)
    due = {round(ticks * (number + 1) / EVALUATIONS) for number in range(EVALUATIONS - QUARTER, EVALUATIONS)}
    remedies = {name.removeprefix(REMEDY): value for name, value in job.settings.items() if name.startswith(REMEDY)}
    for tick, stages in run(config, datasets, ticks, probe, remedies):
        if tick + 1 in due:
            scores.append(evaluate(config, stages, validation))
    result = {"score": mean(scores), "ticks": ticks, "seconds": round(time.monotonic() - start, 1)}
    if kept := stashed_bytes(stages):
        result["stashed_mib"] = round(kept / 2**20, 2)
    described = {"row": job.row, "contender": job.contender, "seed": job.seed, "settings": job.settings}
    return {"key": job.key, **described, **result, **(probe.means() if probe else {})}


def config_of(job: Job) -> Config:
    """The settings of a training, validated as those of a run file."""
    depth = DEPTHS[job.contender]
    tree: dict[str, Any] = {
        "model": "vgg8",
        "model_args": {"width": 16},
        "stages": depth,
        "split": SPLITS[depth],
        "epochs": job.epochs,
        "seed": job.seed,
        "threads": 1,
        "device": "cpu",
        "data": {
            "train": str(job.clips),
            "val": str(job.clips),
            "train_include": "*_s0[1357]_*",
            "val_include": "*_s09_*",
            "slots": 64,
            "size": 32,
            "resize": 36,
            "channels": 1,
            "threads": 1,
        },
        "optimiser": {"schedule": "cosine", "warmup": 50, "final": 0.02},
    }
    for name, value in job.settings.items():
        if value is not None and not name.startswith(REMEDY):
            apply(f"{name}={json.dumps(value)}", tree)
    return parse(tree, "a study")


def ticks_of(job: Job, config: Config, datasets: Datasets) -> int:
    """The number of ticks as if every frame of every clip were used: all trainings of a study update equally often."""
    all_frames = {name: value for name, value in job.settings.items() if name not in ("data.stride", "data.window")}
    if all_frames == job.settings:
        return datasets.total_ticks
    return Datasets(config_of(replace(job, settings=all_frames)), lambda text: None, lambda: None).total_ticks


def run(
    config: Config, datasets: Datasets, ticks: int, probe: Probe | None, remedies: Settings
) -> Iterator[tuple[int, list[Stage]]]:
    """Train the reference. Yields the tick and the stages after every tick."""
    stages = build_stages(config, len(datasets.train.classes), ticks)
    staggered, share = remedies.pop("staggered", False), remedies.pop("replay", 0.0)
    replay = Replay(config.data.slots, share, config.seed) if share else None
    remedy(stages, remedies, ticks)
    reference = Reference(stages, config.frame_shape)
    batch, stream = Batch(config.frame_shape), datasets.open_training(places_of(config) if staggered else None, config)
    every = max(1, ticks // PROBES)
    try:
        for tick in range(ticks):
            assert stream.fill(batch)
            if replay is not None:
                replay.fill(batch)
            packet = packet_of(batch, config, tick)
            full = 2 * config.stages <= tick < ticks - 2 * config.stages  # every stage updates at every tick
            if probe and full and tick % every == every // 2:
                probe.expect(stages, packet)
            elif probe:
                probe.smoothness_after(packet)
            reference.tick(packet)
            yield tick, stages
    finally:
        stream.close()


def places_of(config: Config) -> list[tuple[int, int]]:
    """The entry and frame at which each slot begins: staggered, so that windows do not all end at the same tick."""
    assert config.data.window is not None
    return [(slot, slot % config.data.window) for slot in range(config.data.slots)]


def evaluation_frames(config: Config, datasets: Datasets) -> Iterator[Packet]:
    """The frame batches of one pass over the validation clips."""
    stream, tick = datasets.open_evaluation(), 0
    batch = Batch(config.frame_shape)
    while stream.fill(batch):
        yield packet_of(batch, config, tick)
        tick += 1
    stream.close()


def evaluate(config: Config, stages: list[Stage], frames: list[Packet]) -> float:
    """The top-1 on frame batches, computed as the product does."""
    sums = ClipSums(config.answer)
    for stage in stages:
        stage.evaluating(True)
    inference = Inference(stages, config.frame_shape)
    for packet in (*frames, *[None] * (len(stages) - 1)):
        result = inference.drain() if packet is None else inference.tick(packet)
        if result is not None:
            held, y = result
            sums.add(held.clips, held.labels, y.double().softmax(1))
    for stage in stages:
        stage.evaluating(False)
    return evaluation_of(sums.scores(), stages[-1].objective.task).figures["top1"]
