"""`sideways predict`: classifies a video with a trained model, as a whole and over time.

Frames are decoded and scored in chunks. Only the best class of each frame is kept, so a long video fits in memory.
"""

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common.errors import PATH_ERRORS, ConfigError, DataError, SidewaysError
from common.rule.clip_sums import frames_replaced
from coordinator.tools.trained_model import TrainedModel
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.frame_folder import kinds, matching, pictures
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import read

_COLUMNS = 60  # of the timeline
_ROWS = 20  # segments of the timeline that are printed
_BARS = "▁▂▃▄▅▆▇█"
_BEST = 5


@dataclass
class ClipPrediction:
    """The predictions for a video.

    Attributes:
        stride: every `stride`-th frame of the file was scored; 1 if frames were sampled by time (data.fps).
        total: sum of the scores, or numbers, over the scored frames that count for the clip's answer, float64
            [classes].
        best: for each scored frame, the index of the best class and its score.
        damage: which packets or pictures could not be decoded.
        counted: number of the frames in `total`.
        numbers: whether the outputs are numbers, not scores of classes.
    """

    classes: list[str]
    stride: int
    total: Tensor
    best: list[tuple[int, float]] = field(default_factory=list)
    damage: Damage = field(default_factory=Damage)
    counted: int = 0
    numbers: bool = False

    @property
    def means(self) -> dict[str, float]:
        """The clip's mean scores, or numbers, by name."""
        return dict(zip(self.classes, (self.total / self.counted).tolist(), strict=True))

    def top(self) -> list[tuple[str, float]]:
        """The five best classes of the clip and their mean scores, best first."""
        values, indices = (self.total / self.counted).topk(min(_BEST, len(self.classes)))
        return [(self.classes[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


@dataclass(frozen=True)
class Segment:
    """Adjacent pieces of the timeline with the same most frequent best class.

    Attributes:
        name: of the class.
        first, last: frames, numbered as in the file.
        score: mean score of the class.
        bars: one character per piece, taller for a higher score.
    """

    name: str
    first: int
    last: int
    score: float
    bars: str


def predict_clips(
    trained: TrainedModel, video: Path, table: Path | None = None, frame_files: str = "*"
) -> ClipPrediction:
    """Classify the centre crop of every frame at the model's stride, or predict its numbers.

    Args:
        video: a file, or a folder of frames whose names match `frame_files`.
        table: CSV file to which the scores of every frame are written; None for none.
        frame_files: pattern of the frames' file names.

    Raises:
        ConfigError: the model's outputs are frames.
        DataError: the video cannot be decoded.
        SidewaysError: `table` cannot be written, or the outputs are not finite.
    """
    seen = ClipPrediction(trained.classes, trained.data.stride, torch.zeros(len(trained.classes), dtype=torch.float64))
    seen.numbers = not trained.task.has_classes
    scores = clip_scores(trained, video, frame_files, seen.damage)
    first = next(scores)  # before `table` is opened, so that a bad video leaves no file
    try:
        with open(table, "w", newline="", encoding="utf-8", errors=PATH_ERRORS) if table else nullcontext() as file:
            writer = csv.writer(file) if file else None
            if writer:
                writer.writerow(["frame", *trained.classes])
            _gather(seen, first, scores, writer, frames_replaced(trained.answer))
    except OSError as error:
        raise SidewaysError(f"cannot write {table}: {error.strerror}") from error
    if not seen.total.isfinite().all():
        raise SidewaysError(
            f"{trained.path} gives outputs that are not finite numbers for {video}: its training has diverged; take an "
            "earlier model of the run (--best)"
        )
    return seen


def _gather(seen: ClipPrediction, first: Tensor, others: Iterator[Tensor], writer: Any, replaced: float) -> None:
    chunk: Tensor | None = first
    while chunk is not None:
        if writer:
            start = len(seen.best)
            rows = enumerate(chunk.tolist(), start)
            writer.writerows([i * seen.stride, *(f"{score:.6f}" for score in row)] for i, row in rows)
        for number, row in enumerate(chunk, len(seen.best) + 1):
            adds = number > replaced
            seen.total, seen.counted = (seen.total + row, seen.counted + 1) if adds else (row, 1)
        values, indices = chunk.max(1)
        seen.best += zip(indices.tolist(), values.tolist(), strict=True)
        chunk = next(others, None)


def _frames(video: Path, pattern: str) -> list[Path]:
    """The frame files of a folder; none for a video file. Raises DataError if a folder has none, or several kinds."""
    if not video.is_dir():
        return []
    files = pictures(video, pattern)
    if not files:
        raise DataError(f"{video} contains no {matching(pattern)}: pass a video, or set --frame-files")
    if several := kinds(files, "--frame-files"):
        raise DataError(f"{video} contains {several}")
    return files


def clip_scores(
    trained: TrainedModel, video: Path, frame_files: str = "*", damage: Damage | None = None
) -> Iterator[Tensor]:
    """The scores, or numbers, of a video in chunks, float64 [n, classes], for the arguments of `predict_clips`.

    Raises:
        ConfigError, DataError: as `predict_clips`, also for a video without frames.
    """
    refuse_other_tasks(trained)
    files = _frames(video, frame_files)
    data = trained.data
    fps = None if files else data.fps  # frame files have no timestamps
    size = data.short_side, data.channels
    chunks = read(video, data.stride, *size, fps=fps, frame_files=files, damage=damage, bits=data.bits)
    cropped = (torch.from_numpy(middle(frames, data.size)(frames)) for frames in chunks)
    some = False
    for scores in map(trained.task.answers, trained.in_order(map(trained.normalised, cropped))):
        some = True
        yield scores
    if not some:
        raise DataError(f"{video}: it has no frames")


def refuse_other_tasks(trained: TrainedModel) -> None:
    """Raise ConfigError if the model's outputs are frames."""
    if not trained.has_labels:
        raise ConfigError(
            f"{trained.path} was trained with task = {trained.task.name!r}: it outputs frames, not classes. "
            f"`sideways eval` measures its error"
        )


def timeline(seen: ClipPrediction) -> list[Segment]:
    """Cut the video into at most 60 pieces, and join adjacent ones with the same most frequent best class."""
    count = len(seen.best)
    pieces = min(count, _COLUMNS)
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    found = [_piece(seen, start, end) for start, end in pairwise(edges)]
    return [_join(seen, list(group)) for _, group in groupby(found, key=lambda piece: piece[0])]


def _piece(seen: ClipPrediction, start: int, end: int) -> tuple[int, int, int, float]:
    """The most frequent best class of the scored frames start … end - 1, `start`, `end`, and the class's mean score."""
    frames = seen.best[start:end]
    name = Counter(best for best, _ in frames).most_common(1)[0][0]
    scores = [score for best, score in frames if best == name]
    return name, start, end, sum(scores) / len(scores)


def _join(seen: ClipPrediction, pieces: list[tuple[int, int, int, float]]) -> Segment:
    first, last = pieces[0][1] * seen.stride, (pieces[-1][2] - 1) * seen.stride
    bars = "".join(_BARS[min(len(_BARS) - 1, int(piece[3] * len(_BARS)))] for piece in pieces)
    return Segment(seen.classes[pieces[0][0]], first, last, sum(piece[3] for piece in pieces) / len(pieces), bars)


def show(seen: ClipPrediction, console: Console) -> None:
    """Print the best classes and the timeline, or the numbers."""
    if seen.damage.count:
        console.print(f"damaged: {seen.damage}", style="yellow", markup=False)
    if seen.numbers:
        found = Table(title=f"Clip, mean of {seen.counted} frames (--csv writes every frame)", show_header=False)
        for name, value in seen.means.items():
            found.add_row(_plain(name), f"{value:.4g}")
        console.print(found)
        return
    best = Table(title=f"Clip, mean of {seen.counted} frames", show_header=False)
    for name, score in seen.top():
        best.add_row(_plain(name), f"{score:.3f}", "█" * round(20 * score))
    console.print(best)
    segments = timeline(seen)
    table = Table("frames", "class", "score", "timeline", title="Best class over time")
    for segment in segments[:_ROWS]:
        table.add_row(f"{segment.first}-{segment.last}", _plain(segment.name), f"{segment.score:.2f}", segment.bars)
    console.print(table)
    if len(segments) > _ROWS:
        console.print(f"… and {len(segments) - _ROWS} more segments: --csv writes every frame")


def _plain(name: str) -> str:
    return name.replace("[", r"\[")  # class names may come from folders: not markup


def tree(seen: ClipPrediction, video: Path) -> dict[str, Any]:
    """The predictions as a tree, for --json."""
    about = {"video": str(video), "frames": len(seen.best), "damaged": seen.damage.count}
    if seen.numbers:
        return {**about, "numbers": {name: round(value, 6) for name, value in seen.means.items()}}
    return {
        **about,
        "top": [{"class": name, "score": round(score, 6)} for name, score in seen.top()],
        "timeline": [
            {"class": part.name, "first": part.first, "last": part.last, "score": round(part.score, 6)}
            for part in timeline(seen)
        ],
    }
