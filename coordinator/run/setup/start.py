"""From what a run starts, and how it is restored."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.config.settings import Config
from common.errors import PeerError
from common.messages.snapshot import Snapshot
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from coordinator.checkpoints.healing import Healing, common_snapshot, deliver, heal
from coordinator.checkpoints.resume import StartPoint, start_from
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.run.setup.checks import Checked, Setup


@dataclass(frozen=True)
class Start:
    """From what a run starts.

    Attributes:
        point: its first tick, the checkpoint and the places in the clips.
        healing: how the run goes on after a loss; None if it starts from a checkpoint, or anew.
        sources: snapshots from which the stages go on, of all replicas; empty if they do not.
    """

    point: StartPoint
    healing: Healing | None = None
    sources: Sequence[Snapshot | None] = ()


def choose_start(setup: Setup, checked: Checked, config: Config, split: list[int]) -> Start:
    """Where the run starts: from what the processes of the last attempt kept, from the checkpoint, or at tick 0."""
    found, datasets, warn = checked.found, checked.datasets, setup.presence.terminal.warn
    point = start_from(*found, config, split, datasets, warn) if found else StartPoint()
    start = _from_memory(setup, checked, point, config, split)
    if checked.is_restart and not start.point.tick:
        warn("there is no checkpoint yet: the training starts from the beginning")
    return start


def _from_memory(setup: Setup, checked: Checked, point: StartPoint, config: Config, split: list[int]) -> Start:
    """What the processes of the last attempt kept, if the run can go on from it; else `point`."""
    snapshots, stages, healing = checked.snapshots, setup.pipeline.stages, None
    if snapshots is None:
        return Start(point)
    kept = stages.call_all(StageCalls.use_snapshot_folder, snapshots.path)
    positions = snapshots.positions(kept) if checked.is_restart else []
    sources: Sequence[Snapshot | None] = ()
    found = kept, positions, point, config, split, checked.datasets.fingerprint
    if config.recovery.heals and (healed := heal(*found)):
        point, healing = healed
        sources = [*healing.sources] * stages.replicas
    elif not config.recovery.heals and (common := common_snapshot(*found)):
        point, sources = common
    deliver(stages, kept, sources, config.snapshots_kept)
    return Start(point, healing, sources)


def _check_restored(
    stages: Stages, snapshots: RunSnapshots, sources: Sequence[Snapshot | None], reasons: Sequence[str]
) -> None:
    """Raise PeerError if a stage cannot load its snapshot, for a restart that goes on from an older one.

    All hosts forget that one first, or it would be chosen again.
    """
    failed = {source: why for source, why in zip(sources, reasons, strict=False) if source is not None and why}
    for source in failed:
        snapshots.forget(source.name, source.tick)
        stages.call_all(StageCalls.forget_copies, source.name, source.tick)
    if failed:
        raise PeerError(f"{'; '.join(failed.values())}: the next attempt goes on from an older one, or the checkpoint")


def restore(setup: Setup, checked: Checked, start: Start) -> bool:
    """Restore what the run starts from, if anything. Returns whether an evaluation is still due there."""
    point, every, presence = start.point, setup.config.evaluate_every, setup.presence
    over = point.tick >= checked.datasets.total_ticks  # the summary tells of an evaluation at the end: it is done again
    evaluated = not over and (point.scored or every == 0 or point.tick % every > 0)  # or none was due
    if point.tick:
        checked.checkpoints.set_aside_after(point.tick)
    if point.folder is not None:
        setup.pipeline.stages.call_all(StageCalls.restore, point.folder.resolve(), point.tick, point.restorable)
    if checked.snapshots is not None:
        checked.snapshots.forget_after(point.tick)
        reasons = setup.pipeline.stages.call_all(StageCalls.resume_from_snapshot, start.sources, point.tick)
        _check_restored(setup.pipeline.stages, checked.snapshots, start.sources, reasons)
    if setup.resume is not None:
        checked.directory.truncate_from(point.tick, evaluated)
        presence.broadcast.resumed(point.tick, evaluated)
    if point.tick:
        presence.terminal.say(str(start.healing or point))
    return point.tick > 0 and not evaluated
