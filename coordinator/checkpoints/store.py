"""The checkpoints on disk: RUN/checkpoints/TICK/, written by all stages together, committed by a rename.

.metadata, __0_0.distcp …   torch.distributed.checkpoint, see stage_worker/checkpoint.py
position.json               the coordinator's position, and the size and SHA-256 of every other file
"""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from common.checkpoint_reader import Reader
from common.config.settings import Config
from common.errors import SidewaysError
from common.rule.skips import SKIPS
from coordinator.atomic_file import replacing
from coordinator.video.stream import Places

FOLDER, _POSITION, _PART, _OLD, _REFUSED, _FORMAT = "checkpoints", "position.json", ".part", ".old", ".refused", 1


_FILE = re.compile(r"(replica-[0-9]+/)?[^/]+")  # a file's name, from the checkpoint's folder on


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


class Checkpoints:
    """The checkpoints of a run directory."""

    def __init__(self, run: Path, keep: int, figure: str = "") -> None:
        """Clean up after a process that was killed while it wrote a checkpoint, or put one in the place of another.

        Args:
            keep: how many of the newest to keep, besides the best.
            figure: of evaluations, by which the best is chosen.
        """
        self.run, self._figure = run, figure
        self._folder, self._keep = run / FOLDER, keep
        self._committed: set[Path] = set()  # committed by this process
        for part in self._folder.glob(f"*{_PART}"):
            shutil.rmtree(part, ignore_errors=True)
        for old in self._folder.glob(f"*{_OLD}"):
            _bring_back(old)

    def begin(self, tick: int) -> Path:
        """Make an empty folder for the stages to write to. Raises OSError."""
        part = self._folder / f"{tick:010}{_PART}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def commit(self, part: Path, position: Position) -> int:
        """Commit a fully written checkpoint by a rename, then remove old ones. Returns its bytes. Raises OSError."""
        paths = [path for path in part.rglob("*") if path.is_file()]
        files = {path.relative_to(part).as_posix(): (path.stat().st_size, _digest(path)) for path in paths}
        _write_position(part, replace(position, files=files))
        final = part.with_name(part.name.removesuffix(_PART))
        # a second checkpoint of one tick is identical; replacing the first would leave none on disk for a moment
        if final in self._committed and final.exists():
            self.abandon(part)
        else:
            _put_in_place(part, final)
            self._committed.add(final)
        self._prune()
        return sum(size for size, _ in files.values())

    def abandon(self, part: Path) -> None:
        """Remove a checkpoint that could not be completed."""
        shutil.rmtree(part, ignore_errors=True)

    def newest(self, shapes: dict[str, tuple[int, ...]]) -> tuple[Path | None, Position | None, list[str]]:
        """Find the newest checkpoint that is complete, undamaged and of this model.

        Args:
            shapes: of the whole model's parameters and buffers, by name.

        Returns:
            Its folder and position, both None if there is none, and why each newer checkpoint was refused.
        """
        refused: list[str] = []
        for path in reversed(self._all()):
            try:
                position = _read_position(path)
                _check_files(path, position)
                _check_model(path, shapes)
                return path, position, refused
            except SidewaysError as error:
                refused.append(str(error))
        return None, None, refused

    def set_aside_after(self, tick: int) -> None:
        """Rename checkpoints later than `tick`, where the run resumes, to *.refused. Raises OSError.

        Otherwise they would count among the newest, and valid ones would be removed in their place.
        """
        for path in self._all():
            if int(path.name) > tick:
                aside = path.with_name(path.name + _REFUSED)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)

    def set_score(self, tick: int, score: float) -> None:
        """Store an evaluation's score in the checkpoint of `tick`, if there is one. Raises OSError or SidewaysError."""
        path = self._folder / f"{tick:010}"
        if path.is_dir():
            _write_position(path, replace(_read_position(path), score=score, figure=self._figure))
            self._prune()

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit())

    def _scores(self) -> dict[Path, float | None]:
        scores = {}
        for path in self._all():
            try:
                position = _read_position(path)
                scores[path] = position.score if position.figure in ("", self._figure) else None
            except SidewaysError:
                scores[path] = None
        return scores

    def _prune(self) -> None:
        scores = self._scores()
        known = [path for path, score in scores.items() if score is not None]
        best = max(known, key=lambda path: scores[path] or 0.0, default=None)
        for path in list(scores)[: -self._keep]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)


def _put_in_place(part: Path, final: Path) -> None:
    """Rename a checkpoint to its name. One of an earlier attempt is removed only then. Raises OSError."""
    old = final.with_name(final.name + _OLD)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(part, final)
    finally:
        _bring_back(old)


def _bring_back(old: Path) -> None:
    """Rename a checkpoint that was set aside to its name again, or remove it if another one is in its place."""
    final = old.with_name(old.name.removesuffix(_OLD))
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with suppress(OSError):  # there is none
            os.replace(old, final)


def _read_position(path: Path) -> Position:
    try:
        return Position.parse((path / _POSITION).read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SidewaysError(f"{path} is not a complete checkpoint: {_POSITION} cannot be read ({reason})") from error


def _write_position(folder: Path, position: Position) -> None:
    with replacing(folder / _POSITION) as part, open(part, "w", encoding="utf-8") as file:
        file.write(position.text)
        file.flush()
        os.fsync(file.fileno())


def _check_files(path: Path, position: Position) -> None:
    for name, (size, digest) in position.files.items():
        file = path / name
        if not _FILE.fullmatch(name) or not file.is_file():
            raise SidewaysError(f"{path} is not a complete checkpoint: {name} is missing")
        if file.stat().st_size != size:
            raise SidewaysError(f"{file} is truncated: it has {file.stat().st_size} of {size} bytes")
        if _digest(file) != digest:
            raise SidewaysError(f"{file} is damaged: its checksum does not match the one recorded when it was written")


def _check_model(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        entries = Reader(path).read_metadata().state_dict_metadata
    except Exception as error:
        raise SidewaysError(f"{path} is not a complete checkpoint: {error}") from error
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    of_blocks = (name for name in tensors if name.startswith("model.") and not name.startswith(f"model.{SKIPS}"))
    found = {name: tuple(tensors[name].size) for name in of_blocks}
    expected = {f"model.{name}": shape for name, shape in shapes.items()}
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        name = different[0].removeprefix("model.")
        raise SidewaysError(
            f"{path} is of another model: {name} is {_text(found.get(different[0]))} there and "
            f"{_text(expected.get(different[0]))} here ({len(different)} tensors differ)"
        )


def _text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
