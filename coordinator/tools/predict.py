"""`sideways predict`: what a trained classifier sees in a video, for the whole clip and along its frames.

Frames are decoded and scored a chunk at a time; of each only the best class is kept, so a video may be long.
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

from common.errors import ConfigError, DataError, SidewaysError
from common.processes.lifecycle import PATH_ERRORS
from coordinator.tools.trained_model import TrainedModel
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.media_info import kinds, matching, pictures
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import read

_COLUMNS = 60  # of the timeline
_ROWS = 20  # of the timeline that are printed
_BARS = "▁▂▃▄▅▆▇█"
_BEST = 5


@dataclass
class ClipPrediction:
    """What was seen in a video.

    Attributes:
        stride: every how many-th frame of the file was looked at; 1 where so many a second were (data.fps).
        best: of each of these frames the best class's number and score, the softmax.
        total: sum of the softmax over frames, float64 [classes].
        damage: what of the video could not be decoded.
    """

    classes: list[str]
    stride: int
    total: Tensor
    best: list[tuple[int, float]] = field(default_factory=list)
    damage: Damage = field(default_factory=Damage)

    def top(self) -> list[tuple[str, float]]:
        """The best five classes of the clip and their mean scores."""
        values, indices = (self.total / len(self.best)).topk(min(_BEST, len(self.classes)))
        return [(self.classes[i], v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


@dataclass(frozen=True)
class Segment:
    """Neighbouring pieces of the timeline with the same class in most frames. Frames are numbered as in the file."""

    name: str
    first: int
    last: int
    score: float
    bars: str


def predict_clips(
    trained: TrainedModel, video: Path, table: Path | None = None, frame_files: str = "*"
) -> ClipPrediction:
    """Score every frame at the model's stride, centre crop; with `table` all scores go there too, as CSV.

    Args:
        video: a file, or a folder of frames whose names match `frame_files`.

    Raises:
        ConfigError: the model does not classify.
        DataError: the video cannot be decoded.
        SidewaysError: `table` cannot be written.
    """
    if trained.task != "classify":
        raise ConfigError(
            f"{trained.path} was trained with task = {trained.task!r}: it gives frames, not classes. "
            f"`sideways eval` measures its error"
        )
    seen = ClipPrediction(trained.classes, trained.data.stride, torch.zeros(len(trained.classes), dtype=torch.float64))
    scores = _scores(trained, video, _frames(video, frame_files), seen.damage)
    first = next(scores, None)  # before `table` is begun
    if first is None:
        raise DataError(f"{video}: it has no frames")
    try:
        with open(table, "w", newline="", encoding="utf-8", errors=PATH_ERRORS) if table else nullcontext() as file:
            writer = csv.writer(file) if file else None
            if writer:
                writer.writerow(["frame", *trained.classes])
            _gather(seen, first, scores, writer)
    except OSError as error:
        raise SidewaysError(f"cannot write {table}: {error.strerror}") from error
    return seen


def _gather(seen: ClipPrediction, first: Tensor, others: Iterator[Tensor], writer: Any) -> None:
    chunk: Tensor | None = first
    while chunk is not None:
        if writer:
            start = len(seen.best)
            rows = enumerate(chunk.tolist(), start)
            writer.writerows([i * seen.stride, *(f"{score:.6f}" for score in row)] for i, row in rows)
        seen.total += chunk.sum(0)
        values, indices = chunk.max(1)
        seen.best += zip(indices.tolist(), values.tolist(), strict=True)
        chunk = next(others, None)


def _frames(video: Path, pattern: str) -> list[Path]:
    """The frames of a folder of them. Raises DataError: there are none, or different ones."""
    if not video.is_dir():
        return []
    files = pictures(video, pattern)
    if not files:
        raise DataError(f"{video} holds no {matching(pattern)}: name a video, or the pattern by --frame-files")
    if several := kinds(files, "--frame-files"):
        raise DataError(f"{video} holds {several}")
    return files


def _scores(trained: TrainedModel, video: Path, frame_files: list[Path], damage: Damage) -> Iterator[Tensor]:
    """Softmax, float64 [n, classes], chunk by chunk."""
    data = trained.data
    fps = None if frame_files else data.fps  # they have no timestamps
    size = data.short_side, data.channels
    for frames in read(video, data.stride, *size, fps=fps, frame_files=frame_files, damage=damage):
        cropped = torch.from_numpy(middle(frames, data.size)(frames))
        yield trained(cropped).double().softmax(1)


def timeline(seen: ClipPrediction) -> list[Segment]:
    """At most 60 pieces of the video, joined where the same class is best in most of their frames."""
    count = len(seen.best)
    pieces = min(count, _COLUMNS)
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    found = [_piece(seen, start, end) for start, end in pairwise(edges)]
    return [_join(seen, list(group)) for _, group in groupby(found, key=lambda piece: piece[0])]


def _piece(seen: ClipPrediction, start: int, end: int) -> tuple[int, int, int, float]:
    """The class that is best most often from frame `start` to before `end`, these two, and its mean score there."""
    frames = seen.best[start:end]
    name = Counter(best for best, _ in frames).most_common(1)[0][0]
    scores = [score for best, score in frames if best == name]
    return name, start, end, sum(scores) / len(scores)


def _join(seen: ClipPrediction, pieces: list[tuple[int, int, int, float]]) -> Segment:
    first, last = pieces[0][1] * seen.stride, (pieces[-1][2] - 1) * seen.stride
    bars = "".join(_BARS[min(len(_BARS) - 1, int(piece[3] * len(_BARS)))] for piece in pieces)
    return Segment(seen.classes[pieces[0][0]], first, last, sum(piece[3] for piece in pieces) / len(pieces), bars)


def show(seen: ClipPrediction, console: Console) -> None:
    """The best classes and the timeline."""
    if seen.damage.count:
        console.print(f"damaged: {seen.damage}", style="yellow", markup=False)
    best = Table(title=f"The clip, mean of {len(seen.best)} frames", show_header=False)
    for name, score in seen.top():
        best.add_row(_plain(name), f"{score:.3f}", "█" * round(20 * score))
    console.print(best)
    stretches = timeline(seen)
    along = Table("frames", "class", "score", "along the way", title="The best class, frame by frame")
    for stretch in stretches[:_ROWS]:
        along.add_row(f"{stretch.first}-{stretch.last}", _plain(stretch.name), f"{stretch.score:.2f}", stretch.bars)
    console.print(along)
    if len(stretches) > _ROWS:
        console.print(f"… and {len(stretches) - _ROWS} more stretches: --csv has every frame")


def _plain(name: str) -> str:
    return name.replace("[", r"\[")  # a folder's name is no markup


def tree(seen: ClipPrediction, video: Path) -> dict[str, Any]:
    """For --json."""
    return {
        "video": str(video),
        "frames": len(seen.best),
        "damaged": seen.damage.count,
        "top": [{"class": name, "score": round(score, 6)} for name, score in seen.top()],
        "timeline": [
            {"class": part.name, "first": part.first, "last": part.last, "score": round(part.score, 6)}
            for part in timeline(seen)
        ],
    }
