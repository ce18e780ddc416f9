"""A run that has lost a process goes on from what each process kept in memory.

With recovery.mode = "exact" all go back to the newest tick that all have kept, as to a checkpoint. With "heal" every
stage takes the newest of its snapshots; the ticks then go on after the last one that any process had begun, with
an empty pipeline. A stage without a snapshot takes the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.config.settings import Config
from common.messages.snapshot import Kept, Snapshot
from common.messages.stage_calls import StageCalls
from common.messages.stage_rpc import Stages
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.resume import StartPoint


@dataclass(frozen=True)
class Healing:
    """How a run goes on.

    Attributes:
        tick: with which it goes on.
        sources: what each stage goes on from; None: from the checkpoint.
        checkpoint: the tick of the checkpoint; 0 if there is none.
    """

    tick: int
    sources: Sequence[Snapshot | None]
    checkpoint: int

    @property
    def lost(self) -> dict[int, int]:
        """For each stage that goes back, how many ticks ago its snapshot was taken: it has lost their updates."""
        ticks = {stage: source.tick if source else self.checkpoint for stage, source in enumerate(self.sources)}
        gone = {stage: self.tick - tick for stage, tick in ticks.items() if not self._is_last(stage)}
        return {stage: count for stage, count in gone.items() if count}

    def _is_last(self, stage: int) -> bool:
        source = self.sources[stage]
        return source is not None and source.last

    def __str__(self) -> str:
        lost = [f"stage {stage} lost the updates of {ticks} ticks at most" for stage, ticks in self.lost.items()]
        return f"healed: the training goes on at tick {self.tick}; {', '.join(lost) or 'no stage lost any update'}"


def heal(
    kept: Sequence[Kept], positions: Sequence[Position], start: StartPoint, config: Config, split: list[int], clips: str
) -> tuple[StartPoint, Healing] | None:
    """Find from what the run can go on; None if the coordinator kept nothing, or nothing newer than the checkpoint.

    Args:
        kept: for each stage, of all replicas, what its host has.
        positions: those that the coordinator kept, from the oldest on.
        start: from the checkpoint.
        clips: fingerprint of the clips.
    """
    if not positions or not (positions[-1].fits(config, split) and positions[-1].same_optimiser(config)):
        return None
    position = positions[-1]
    found = {snapshot for own in kept for snapshot in own.snapshots if snapshot.tick >= start.tick}
    sources = [max((own for own in found if own.stage == stage), default=None) for stage in range(config.stages)]
    tick = max([position.tick, *(source.tick for source in sources if source is not None)])
    if tick <= start.tick:
        return None
    healed = replace(start, tick=tick, origin=tick, in_flight=False, scored=False, in_memory=True)
    if position.tick >= start.tick:  # the coordinator may have been lost long after it kept one
        same_clips = position.clips == clips
        healed = replace(healed, seconds=position.seconds, places=position.places if same_clips else start.places)
    return healed, Healing(tick, sources, start.tick)


def common_snapshot(
    kept: Sequence[Kept], positions: Sequence[Position], start: StartPoint, config: Config, split: list[int], clips: str
) -> tuple[StartPoint, list[Snapshot]] | None:
    """Find the newest tick of which all stages and the coordinator kept all, for the exact mode.

    Args as of `heal`.

    Returns:
        Where the run starts, and what each stage goes on from; None if there is nothing newer than the checkpoint.
    """
    found = {snapshot for own in kept for snapshot in own.snapshots if not snapshot.last}
    for position in reversed(positions):
        own = [Snapshot(position.tick, False, *divmod(number, config.stages)) for number in range(config.total_stages)]
        fits = position.clips == clips and position.fits(config, split) and position.same_optimiser(config)
        if position.tick > start.tick and fits and found.issuperset(own):
            start = StartPoint(position.tick, position.origin, position.seconds, position.places, same_split=True)
            return replace(start, in_flight=True, optimiser=True, in_memory=True), own
    return None


def deliver(stages: Stages, kept: Sequence[Kept], sources: Sequence[Snapshot | None], keep: int) -> None:
    """Bring each stage's snapshot to its host, if it is on another one. Raises PeerError.

    Args:
        kept: for each stage, of all replicas, what its host has.
        sources: of the stages, of all replicas.
        keep: how many snapshots of one name a host keeps.
    """
    for number, source in enumerate(sources):
        if source is not None and source not in kept[number].snapshots:
            holder = next(other for other, own in enumerate(kept) if source in own.snapshots)
            data = stages.call(holder, StageCalls.read_snapshot, source)
            stages.call(number, StageCalls.keep_copy, source.name, source.tick, data, keep)
