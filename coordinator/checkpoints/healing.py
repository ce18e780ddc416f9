"""Healing: a run that has lost a process goes on from what each process kept in memory (recovery.mode = "heal").

Every stage takes the newest of its snapshots; the ticks then go on after the last one that any process had begun, with
an empty pipeline. A stage without a snapshot takes the checkpoint.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from common.config.settings import Config
from common.messages.stage_calls import Snapshot, StageCalls
from common.messages.stage_rpc import Stages
from common.processes.snapshot_folder import SnapshotFolder, folder_of
from coordinator.checkpoints.resume import StartPoint
from coordinator.checkpoints.store import Position

_NAME = "coordinator"


class RunSnapshots:
    """The coordinator's own snapshots: its position."""

    def __init__(self, run: Path, every: int) -> None:
        """Of a run directory; one is due every `every` ticks. Raises ConfigError if the folder cannot be used."""
        self._folder, self._every, self._next = SnapshotFolder(folder_of(run)), every, 0
        self._kept = True

    @property
    def path(self) -> Path:
        """The folder, also that of the stages on their hosts."""
        return self._folder.path

    def due(self, tick: int) -> bool:
        """Whether a snapshot is due before `tick`."""
        return tick >= self._next

    def keep(self, position: Position) -> None:
        """Keep the position. Without memory for it, an older one is kept."""
        self._next = position.tick + self._every
        if self._kept:
            with suppress(OSError):
                self._folder.write(_NAME, position.tick, lambda path: _write(path, position))

    def refuse(self) -> None:
        """Let no later attempt heal from the snapshots: the training has diverged."""
        self._kept = False
        self._folder.forget(_NAME)

    def newest(self) -> Position | None:
        """What an earlier attempt kept; None if there is nothing."""
        for tick in reversed(self._folder.ticks(_NAME)):
            with suppress(OSError, ValueError):
                return Position.parse(self._folder.file(_NAME, tick).read_bytes())
        return None

    def leave(self) -> None:
        """The run ends: remove the position."""
        self._folder.leave(_NAME)


def _write(path: Path, position: Position) -> None:
    path.write_text(position.text, encoding="utf-8")


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
        """For each stage that was lost, how many ticks ago its snapshot was taken: it has lost their updates."""
        ticks = {stage: source.tick if source else self.checkpoint for stage, source in enumerate(self.sources)}
        return {stage: self.tick - tick for stage, tick in ticks.items() if not self._is_last(stage)}

    def _is_last(self, stage: int) -> bool:
        source = self.sources[stage]
        return source is not None and source.last

    def __str__(self) -> str:
        lost = [f"stage {stage} lost the updates of {ticks} ticks at most" for stage, ticks in self.lost.items()]
        return f"healed: the training goes on at tick {self.tick}; {', '.join(lost) or 'no stage lost any update'}"


def heal(
    snapshots: RunSnapshots, stages: Stages, start: StartPoint, config: Config, split: list[int], clips: str
) -> tuple[StartPoint, Healing] | None:
    """Find from what the run can go on; None if the coordinator kept nothing, or nothing newer than the checkpoint.

    Args:
        start: from the checkpoint.
        clips: fingerprint of the clips.
    """
    found = stages.call_all(StageCalls.snapshots, snapshots.path)
    position = snapshots.newest()
    if position is None or not (position.fits(config, split) and position.same_optimiser(config)):
        return None
    sources = [_newest(found[stage :: stages.count], start.tick) for stage in range(stages.count)]
    tick = max([position.tick, *(source.tick for source in sources if source is not None)])
    if tick <= start.tick:
        return None
    same_clips = position.clips == clips
    places = position.places if same_clips else start.places
    healed = replace(
        start, tick=tick, origin=tick, seconds=position.seconds, places=places, in_flight=False, scored=False
    )
    return healed, Healing(tick, sources, start.tick)


def _newest(found: Sequence[Sequence[Snapshot]], after: int) -> Snapshot | None:
    """The newest snapshot of a stage, after tick `after`, that all its replicas can read."""
    common = set(found[0]).intersection(*found[1:])
    return max((snapshot for snapshot in common if snapshot.tick > after), default=None)
