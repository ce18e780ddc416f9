"""The checkpoints on disk: RUN/checkpoints/TICK/, written by all stages together, committed by a rename.

.metadata, __0_0.distcp …   torch.distributed.checkpoint, see stage_worker/checkpoint.py
position.json               the coordinator's position, and the size and SHA-256 of every other file
"""

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from common.errors import SidewaysError
from coordinator.checkpoints.integrity import check_files, check_shapes, digest_of
from coordinator.checkpoints.position import Position, read_position, write_position

FOLDER, _PART, _OLD, _REFUSED = "checkpoints", ".part", ".old", ".refused"


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
        files = {path.relative_to(part).as_posix(): (path.stat().st_size, digest_of(path)) for path in paths}
        write_position(part, replace(position, files=files))
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
                position = read_position(path)
                check_files(path, position.files)
                check_shapes(path, shapes)
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
            write_position(path, replace(read_position(path), score=score, figure=self._figure))
            self._prune()

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit())

    def _scores(self) -> dict[Path, float | None]:
        scores = {}
        for path in self._all():
            try:
                position = read_position(path)
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
