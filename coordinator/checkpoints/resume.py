"""Where a run starts: at tick 0, or at the newest checkpoint of the run that is resumed."""

from dataclasses import dataclass
from pathlib import Path

from common.config.settings import Config
from common.errors import SidewaysError
from common.messages.restorable import Restorable
from common.processes.caller import wording
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.store import Checkpoints
from coordinator.video.datasets import Datasets, Warn
from coordinator.video.stream import Places


@dataclass(frozen=True)
class StartPoint(Restorable):
    """Where a run starts, and what of its checkpoint can be restored.

    Attributes:
        tick: the first tick, and so the number of the first training frame.
        origin: the tick at which the pipeline starts, or started, empty.
        seconds: training time before `tick`.
        places: each slot's position in the clips; None to start every slot from its beginning.
        folder: the checkpoint; None for a new run, and for one whose stages all go on from snapshots in memory.
        in_memory: it starts from snapshots, so what it starts from is on no disk yet.
    """

    tick: int = 0
    origin: int = 0
    seconds: float = 0.0
    places: Places | None = None
    folder: Path | None = None
    in_memory: bool = False

    @property
    def saved_tick(self) -> int:
        """The tick of what is saved of it: 0 if nothing is."""
        return 0 if self.in_memory else self.tick

    @property
    def restorable(self) -> Restorable:
        """What of its checkpoint can be restored, alone."""
        return Restorable(
            same_split=self.same_split, in_flight=self.in_flight, optimiser=self.optimiser, scored=self.scored
        )

    def __str__(self) -> str:
        how = "with the activations and gradients in flight" if self.in_flight else "and the pipeline warms up again"
        return f"resumed from {self.folder or 'what all processes kept in memory'} at tick {self.tick}, {how}"


def find_checkpoint(
    checkpoints: Checkpoints,
    shapes: dict[str, tuple[int, ...]],
    total_ticks: int,
    evaluates: bool,
    is_restart: bool,
    warn: Warn,
) -> tuple[Path, Position] | None:
    """Find the newest valid checkpoint. Warns of each newer one that is refused, with the reason.

    Args:
        shapes: of the whole model's parameters and buffers, by name.
        total_ticks: ticks of the whole training.
        evaluates: the model is evaluated after the last one.
        is_restart: this is an automatic restart after a process was lost, not a resume by the user.

    Returns:
        The checkpoint's folder and position. None if there is none and `is_restart`.

    Raises:
        SidewaysError: the user resumes a run that has no checkpoint, or that has nothing left to do.
    """
    folder, position, refused = checkpoints.newest(shapes)
    for reason in refused:
        warn(f"checkpoint refused: {reason}")
    if folder is None or position is None:
        if is_restart:
            return None
        keyword = wording("--resume", "resume=")
        raise SidewaysError(f"{checkpoints.run} has no checkpoint to resume from: start a new run, without {keyword}")
    to_evaluate = evaluates and position.score is None  # the run was lost, or stopped, in its last evaluation
    if position.tick >= total_ticks and not (is_restart or to_evaluate):
        done = f"{checkpoints.run} has completed {position.tick} of {total_ticks} ticks"
        how = wording("with --set", "as in sideways.train(resume=…, epochs=…)")
        raise SidewaysError(f"{done}: to train further, raise ticks or epochs {how}")
    return folder, position


def start_from(
    folder: Path, position: Position, config: Config, split: list[int], datasets: Datasets, warn: Warn
) -> StartPoint:
    """Decide which parts of a checkpoint a run with this configuration can restore; warns of the others."""
    same_clips = position.clips == datasets.fingerprint and len(position.places) == config.data.slots
    if not same_clips:
        warn("the clips or slots differ from those of the checkpoint: every slot starts from the beginning")
    if not position.same_optimiser(config):
        warn("the optimiser, or what is frozen, differs from the checkpoint's: the optimiser's state is reset")
    in_flight = same_clips and position.fits(config, split)
    return StartPoint(
        tick=position.tick,
        origin=position.origin if in_flight else position.tick,
        seconds=position.seconds,
        places=position.places if same_clips else None,
        folder=folder,
        same_split=position.split == split,
        in_flight=in_flight,
        optimiser=position.same_optimiser(config),
        scored=position.score is not None,
    )
