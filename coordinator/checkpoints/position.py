"""The position of a run at a checkpoint: the part of it that is the coordinator's, as JSON."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from common.config.settings import Config
from common.errors import SidewaysError
from coordinator.atomic_file import replacing
from coordinator.video.stream import Places

POSITION, _FORMAT = "position.json", 1


@dataclass(frozen=True)
class Position:
    """The position of a run at a checkpoint, and the settings that its state depends on.

    Attributes:
        tick: the next tick to run.
        origin: the tick at which the pipeline started empty.
        split: number of blocks of each stage.
        skips: pairs of stages that skips connect.
        edge_ticks: of the edges between neighbours; empty if they take one each.
        replicas: number of copies of every stage.
        wire: the format in which tensors pass between stages.
        optimiser: its name and arguments, and what is frozen, as JSON.
        places: each slot's position in the clips.
        clips: fingerprint of the clips that `places` refers to.
        seconds: training time so far.
        score: of an evaluation at this tick, larger is better; None without one.
        figure: that the score is of, with - before it if smaller is better; empty without one.
        files: size in bytes and SHA-256 of each other file of the checkpoint, by name.
        format: version of this record.
    """

    tick: int
    origin: int
    split: list[int]
    algorithm: str
    task: str
    ahead: int
    frame_shape: list[int]
    precision: str
    optimiser: str
    places: Places
    clips: str
    seconds: float
    skips: list[tuple[int, int]] = field(default_factory=list)
    edge_ticks: list[int] = field(default_factory=list)
    replicas: int = 1
    wire: str = "float32"
    score: float | None = None
    figure: str = ""
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    format: int = _FORMAT

    @staticmethod
    def of(config: Config, tick: int, origin: int, places: Places, clips: str, seconds: float) -> "Position":
        """The position of a run with this configuration."""
        assert config.split is not None
        return Position(
            tick=tick,
            origin=origin,
            split=config.split,
            algorithm=config.algorithm,
            task=config.task,
            ahead=config.ahead,
            frame_shape=list(config.frame_shape),
            precision=config.precision,
            optimiser=_kind(config),
            places=places,
            clips=clips,
            seconds=seconds,
            skips=config.skip_pairs,
            edge_ticks=list(config.edge_ticks),
            replicas=config.replicas,
            wire=config.network.wire,
        )

    def fits(self, config: Config, split: list[int]) -> bool:
        """Whether a run with this configuration can restore the activations and gradients in flight."""
        shape = list(config.frame_shape)
        edges = [sorted(config.skip_pairs), list(config.edge_ticks), config.replicas, config.network.wire]
        now = [split, config.algorithm, config.task, config.ahead, shape, config.precision, edges]
        own_edges = [sorted(self.skips), self.edge_ticks, self.replicas, self.wire]
        own = [self.split, self.algorithm, self.task, self.ahead, self.frame_shape, self.precision, own_edges]
        return now == own

    @staticmethod
    def parse(text: str | bytes) -> "Position":
        """The position that `text` gives. Raises ValueError."""
        fields = json.loads(text)
        if isinstance(fields, dict) and fields.get("format", _FORMAT) != _FORMAT:
            raise ValueError(f"it was written by another version of Sideways, format {fields['format']}")
        return _FORM.validate_python(fields)

    @property
    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    def same_optimiser(self, config: Config) -> bool:
        """Whether this configuration has the same optimiser, so that its state can be restored."""
        return self.optimiser == _kind(config)


def _kind(config: Config) -> str:
    frozen: list[Any] = [config.freeze] if config.freeze else []
    if config.norm == "frozen":
        frozen.append({"norm": config.norm})
    return json.dumps([config.optimiser.name, config.optimiser.args, *frozen], sort_keys=True)


_FORM = TypeAdapter(Position)


def read_position(path: Path) -> Position:
    """That of the checkpoint in a folder. Raises SidewaysError."""
    try:
        return Position.parse((path / POSITION).read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SidewaysError(f"{path} is not a complete checkpoint: {POSITION} cannot be read ({reason})") from error


def write_position(folder: Path, position: Position) -> None:
    """Write it to a checkpoint's folder, safe on the disk, in place of an earlier one. Raises OSError."""
    with replacing(folder / POSITION) as part, open(part, "w", encoding="utf-8") as file:
        file.write(position.text)
        file.flush()
        os.fsync(file.fileno())
