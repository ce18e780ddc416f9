"""`sideways eval`: evaluates a trained model on the clips of a folder, in one process, and reports the results."""

import csv
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from common.config.run_file import load
from common.config.settings import Answer, Data, source_of
from common.errors import PATH_ERRORS, ConfigError, SidewaysError
from common.rule.clip_sums import ClipSums, Scores
from common.rule.label_form import Labels
from common.rule.packet import NO_CLIP
from coordinator.monitor.confusion_plot import confusion_figure
from coordinator.monitor.evaluation_scores import Evaluation, Evaluator
from coordinator.monitor.evaluation_scores import evaluator as make_evaluator
from coordinator.monitor.val_metrics import metrics_of
from coordinator.run_directory import CONFIG
from coordinator.tools.trained_model import TrainedModel, refuse_whole_clips
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clips, collect
from coordinator.video.slots import Slots
from coordinator.video.stream import PlaybackErrors

CONFUSION = "confusion"  # .png and .csv


def data_for(
    trained: TrainedModel, run: Path, clips: str | Path | None, include: str, labels: Path | None = None
) -> Data:
    """The data settings to evaluate with: the run's own, with its validation clips or else those of `clips`.

    Args:
        run: run directory or model file.
        clips: folder or list of clips; None for the run's data.val.
        include: pattern that a clip's path below the folder must match.
        labels: of `clips`, as in data.val_labels.

    Raises:
        ConfigError: there are no clips to evaluate on.
    """
    own = load(run / CONFIG).data if (run / CONFIG).is_file() else trained.data
    if clips is not None:
        others = {"val": source_of(clips), "val_include": include, "format": "auto", "videos": None, "quarantine": None}
        return own.model_copy(update={**others, "val_labels": labels})
    if own.val is None:
        raise ConfigError(
            f"{run} has no data.val to evaluate on: pass a folder or list of clips as the second argument"
        )
    changes = {"val_include": include} if include != "*" else {}
    return own.model_copy(update=changes if labels is None else {**changes, "val_labels": labels})


def evaluator_of(trained: TrainedModel) -> Evaluator:
    """What computes the figures, those of the run's val_metrics too. Raises ConfigError if one cannot be made."""
    settings = json.loads(trained.about.get("val_metrics", "[]"))
    return make_evaluator(trained.task, metrics_of(settings, trained.task, len(trained.classes)))


def evaluate(trained: TrainedModel, evaluator: Evaluator, scores: Scores) -> Evaluation:
    """Compute the figures. What is wrong with one of them is among the problems.

    Raises SidewaysError if the model's outputs are not finite.
    """
    if wrong := int((~scores.sums.isfinite()).any(1).sum()):
        raise SidewaysError(
            f"{trained.path} gives outputs that are not finite numbers, for {wrong} of {len(scores.sums)} clips: its "
            "training has diverged; evaluate an earlier model of the run (--best)"
        )
    return evaluator.evaluate(scores)


def find_clips(trained: TrainedModel, data: Data) -> Clips:
    """Find the clips. Raises DataError if none can be played, or if they have classes unknown to the model."""
    return collect(data, "val", trained.has_labels, trained.classes, task=trained.task.name)


def score(trained: TrainedModel, clips: Clips, data: Data) -> tuple[Scores, PlaybackErrors]:
    """Run every frame of every clip through the model once, in batches of `data.slots` clips.

    Returns:
        The sums per clip, and the errors of clips that could not be played.

    Raises:
        ConfigError: the model takes whole clips.
        DataError: no clip can be decoded, or a decoder is stuck.
    """
    refuse_whole_clips(trained)
    scorer = _Scorer(trained, data)
    with closing(Slots(Job(clips.clips, data, 0, train=False), form=clips.form)) as source, _bar() as bar:
        task = bar.add_task("evaluating", total=clips.frames)
        scorer.run(_batches(source, data), lambda frames: bar.advance(task, frames))
        return scorer.sums.scores(), source.errors


def _batches(source: Slots, data: Data) -> Iterator[Batch]:
    batch = Batch((data.slots, data.channels, *data.shape), data.pixel_type, source.form)
    while source.fill(batch):
        yield batch


def _bar() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, refresh_per_second=3)


class _Frame(NamedTuple):
    """A frame of every slot."""

    x: Tensor
    clips: NDArray[np.int64]
    labels: Labels


class _Scorer:
    """Runs frames through a model and sums its scores against the labels, or its errors against the frame `ahead`."""

    def __init__(self, trained: TrainedModel, data: Data) -> None:
        self._trained, self.sums = trained, ClipSums(trained.answer, trained.task.form, data.labels_of == "frames")
        self._waiting: deque[_Frame] = deque()  # for the model's output
        self._earlier: deque[tuple[Tensor, _Frame]] = deque(maxlen=trained.ahead + 1)

    def run(self, batches: Iterable[Batch], on_frames: Callable[[int], None]) -> None:
        """Score batches of one frame of every slot. `on_frames` is called with the number of frames scored."""
        for y in self._trained.play(self._read(batches)):
            frame = self._waiting.popleft()
            self._add(y.float(), frame)
            on_frames(int((frame.clips != NO_CLIP).sum()))

    def _read(self, batches: Iterable[Batch]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        for batch in batches:
            x = self._trained.normalised(torch.from_numpy(batch.frames))
            self._waiting.append(_Frame(x, batch.clips.copy(), batch.labels.copy()))
            yield batch.clips, x

    def _add(self, y: Tensor, frame: _Frame) -> None:
        if self._trained.has_labels:
            self.sums.add(frame.clips, frame.labels, self._trained.task.answers(y))
            return
        self._earlier.append((y, frame))
        if len(self._earlier) > self._trained.ahead:
            output, earlier = self._earlier[0]
            self.sums.add_outputs(earlier.clips, frame.labels, output, frame.x, frame.clips)


def figures(evaluation: Evaluation) -> dict[str, float | int | None]:
    """The metrics by name, for --json."""
    return {**evaluation.figures, "clips": evaluation.clips}


def _frames_that_count(answer: Answer) -> str:
    if answer == "mean":
        return "averaged over a clip's frames"
    return "of a clip's last frame" if answer == "last" else f"averaged over a clip's frames without the first {answer}"


def show(evaluation: Evaluation, data: Data, trained: TrainedModel, console: Console) -> None:
    """Print each metric with its value and its evaluation protocol."""
    which = f"{data.snippets} windows of {data.window} frames," if data.snippets > 1 else "all frames"
    which += f" at {data.fps:g} frames a second" if data.fps else f" at stride {data.stride}"
    views = f"one centre crop of {' × '.join(map(str, data.shape))} pixels, {which}"
    said = {"classify": "softmax", "multilabel": "sigmoid"}.get(trained.task.name, "outputs")
    usual = f"{views}, {said} {_frames_that_count(trained.answer)}, {evaluation.clips} clips"
    if data.labels_of == "frames":
        usual = f"{views}, {evaluation.frames} labelled frames of {evaluation.clips} clips, {said}"
    if not trained.has_labels:
        usual = f"{views}, pixels in normalised units, averaged over a clip's frames, then {evaluation.clips} clips"
    more = {
        "mean_class": "accuracy of each class averaged over the classes that have clips",
        "loss": "cross entropy of a clip's answer",
        "map": "average precision of each class averaged over the classes that occur",
        "accuracy": "share of right decisions on single classes at a score of 0.5",
        "r2": "averaged over the numbers",
    }
    table = Table("metric", "value", "protocol", title="Evaluation", show_lines=True)
    for name, value in evaluation.figures.items():
        table.add_row(name, f"{value:.4f}", f"{usual}, {more[name]}" if name in more else usual)
    console.print(table)


def write_confusion(evaluation: Evaluation, classes: list[str], folder: Path) -> list[Path]:
    """Write confusion.csv and confusion.png to `folder`. Returns their paths. Raises SidewaysError."""
    assert evaluation.confusion is not None
    table, picture = folder / f"{CONFUSION}.csv", folder / f"{CONFUSION}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(table, "w", newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
            writer = csv.writer(file)
            writer.writerow(["class \\ taken for", *classes])
            writer.writerows([name, *row] for name, row in zip(classes, evaluation.confusion.tolist(), strict=True))
        confusion_figure(evaluation.confusion, classes).savefig(picture)
    except OSError as error:
        raise SidewaysError(f"cannot write to {folder}: {error.strerror}. Choose another folder with --out") from error
    return [table, picture]
