"""The second step: choose the split and the start, open the training stream, build the stages."""

from dataclasses import dataclass

from common.config.settings import Config
from common.messages.stage_calls import Plan
from coordinator.checkpoints.resume import StartPoint
from coordinator.monitor.tensorboard import EventFiles
from coordinator.run.setup.checks import Checked, Setup
from coordinator.run.setup.class_weights import with_class_weights
from coordinator.run.setup.colour_jitter import with_jitter
from coordinator.run.setup.edge_ticks import with_edge_ticks
from coordinator.run.setup.split import costs_and_split
from coordinator.run.setup.start import Start, choose_start
from coordinator.run.state import RunState
from coordinator.run.training_feed import OwnFeed, TrainingFeed
from coordinator.trackers.listener import TrackerListener
from coordinator.video.datasets import Datasets


@dataclass(frozen=True)
class Built:
    """The result of the second step: the stages are built."""

    state: RunState
    start: Start
    feed: TrainingFeed


def build_stages(setup: Setup, checked: Checked) -> Built:
    """Choose the split, open the training stream, build the stages."""
    datasets, presence = checked.datasets, setup.presence
    total_ticks, classes, warn = datasets.total_ticks, len(datasets.train.classes), presence.terminal.warn
    costs, split = costs_and_split(setup, checked)
    config = with_edge_ticks(setup.config, classes, split, costs, setup.pipeline.stages)
    config = with_class_weights(config, datasets.train)
    config = with_jitter(config, setup.pipeline.me).model_copy(update={"split": split})
    start = choose_start(setup, checked, config, split)
    point = start.point
    if costs:
        presence.terminal.show_split(costs, split)
    feed = _own_feed(setup, datasets, point, config)  # its processes start while the stages are built
    setup.pipeline.configure(Plan(config.of_replica, classes, tuple(split), total_ticks, point.origin), warn)
    feed = feed or _readers_feed(setup, datasets, point, config)
    if setup.resume is not None:
        presence.introduce(config, checked.directory.path, total_ticks)
    if config.report.tensorboard:
        again = not point.scored or point.tick >= total_ticks  # whether an evaluation there is done again
        first = None if setup.resume is None else point.tick + (not again)
        presence.broadcast.add(EventFiles(checked.directory.path, warn, first))
    for name in dict.fromkeys(config.report.trackers):
        presence.broadcast.add(TrackerListener(name, checked.directory.path, config, presence.terminal.say, warn))
    presence.broadcast.split(checked.blocks, split)
    if costs:
        presence.broadcast.measured(costs, split)
    state = RunState(config, setup.stop, total_ticks, point.tick, point.seconds, point.saved_tick)
    return Built(state, start, feed)


def _own_feed(setup: Setup, datasets: Datasets, point: StartPoint, config: Config) -> TrainingFeed | None:
    if setup.pipeline.readers is not None:
        return None
    return OwnFeed(datasets.open_training(point.places, config), config, setup.pipeline)


def _readers_feed(setup: Setup, datasets: Datasets, point: StartPoint, config: Config) -> TrainingFeed:
    readers = setup.pipeline.readers
    assert readers is not None
    for handle in readers.handles:
        datasets.watch(handle.errors)
    readers.open(config, datasets.train, point.places, point.tick, setup.pipeline.addresses)
    return readers
