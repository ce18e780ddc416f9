"""A coordinator that does many small runs, one after another, with one set of real stage workers.

Started by the launcher, with the arguments CASES.json OUT: rank 0 is this coordinator, the others become stage workers,
the last READERS (environment) of them readers.
Writes the losses and parameters of each case to OUT. Everything but the command line and the display is the product's
own code.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.stage_calls import Plan
from common.processes.joining import join
from common.processes.output import exit_now
from coordinator.run.pipeline import Pipeline
from coordinator.run.training_feed import OwnFeed, TrainingFeed
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clips, collect
from coordinator.video.slots import Slots


def main() -> None:
    rank, readers = int(os.environ["RANK"]), int(os.environ.get("READERS", 0))
    if rank:
        reads = rank >= int(os.environ["WORLD_SIZE"]) - readers
        worker = "coordinator.reader" if reads else os.environ.get("WORKER", "stage_worker")
        os.execv(sys.executable, [sys.executable, "-m", worker])
    cases: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    first = parse(next(iter(cases.values())), "cases")
    replicas = first.replicas
    losses: list[list[float]] = [[] for _ in range(replicas)]
    me = join("coordinator").arranged(replicas, first.stages)
    pipeline = Pipeline(me, 60, lambda report: losses[report.replica].extend(report.losses or []))
    for name, tree in cases.items():
        for own in losses:
            own.clear()
        run(parse(tree, name), pipeline)
        save_file(pipeline.stages.export(), out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(losses if replicas > 1 else losses[0]))
    pipeline.close()
    exit_now(0)


def run(config: Config, pipeline: Pipeline) -> None:
    clips = collect(config.data, "train", config.has_labels, task=config.task)
    assert config.split is not None
    assert config.ticks is not None
    pipeline.configure(Plan(config.of_replica, len(clips.classes), tuple(config.split), config.ticks))
    feed = feed_of(config, pipeline, clips)
    feed.prime()
    pipeline.train(0, config.ticks)
    for tick in range(config.ticks):
        feed.read(tick)
        feed.push(tick)
    pipeline.wait_done()
    assert len(feed.places()) == config.data.slots
    feed.close()


def feed_of(config: Config, pipeline: Pipeline, clips: Clips) -> TrainingFeed:
    """The readers, if there are any, or else this process."""
    if pipeline.readers is None:
        slots = Slots(Job(clips.clips, config.data, config.seed, True), form=clips.form)
        return OwnFeed(slots, config, pipeline)
    pipeline.readers.open(config, clips, None, 0, pipeline.addresses)
    return pipeline.readers
