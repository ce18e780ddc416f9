"""Per-clip sums of an evaluation: of what the outputs say, or of the mean squared error against a target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Answer
from common.rule.label_form import ONE_CLASS, LabelForm, Labels
from common.rule.packet import NO_CLIP

_PICTURES = 8  # rows


@dataclass(frozen=True)
class Scores:
    """Result of an evaluation: for each of n clips the sum over its frames of their answers or mean squared error.

    With labels of frames, n are the labelled frames instead, and `clips` the clip of each.

    Attributes:
        clips: int64 [n].
        labels: int64 [n], or float32 [n, width].
        frames: number of frames of each clip that count, int64 [n].
        sums: float64 [n, classes or numbers], or [n, 1] for the mean squared error; float32 of labelled frames.
        pictures: targets and outputs of a few rows, normalised, float [2, rows, channels, height, width]; None for
            tasks with labels.
    """

    clips: Tensor
    labels: Tensor
    frames: Tensor
    sums: Tensor
    pictures: Tensor | None = None

    @property
    def means(self) -> Tensor:
        """The answers for the clips, or frames: the sums over the number of frames."""
        return self.sums / self.frames[:, None]


def merged(parts: Sequence[Scores]) -> Scores:
    """The result of evaluations of different clips, ordered by clip id; with the pictures of the first."""
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if len(part.clips)] or parts[:1]
    clips, labels, frames, sums = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("clips", "labels", "frames", "sums")
    )
    return _ordered(Scores(clips, labels, frames, sums, parts[0].pictures))


def _ordered(scores: Scores) -> Scores:
    """Ordered by clip id, and the frames of a clip in their order."""
    order = scores.clips.argsort(stable=True)
    return Scores(scores.clips[order], scores.labels[order], scores.frames[order], scores.sums[order], scores.pictures)


def frames_replaced(answer: Answer) -> float:
    """Up to which of its frames, counted from 1, a clip's answer is that of the frame alone; later ones are added."""
    if answer == "mean":
        return 1
    return math.inf if answer == "last" else answer + 1


class ClipSums:
    """Accumulates sums per clip id."""

    def __init__(self, answer: Answer = "mean", form: LabelForm = ONE_CLASS, of_frames: bool = False) -> None:
        """`answer`: what the answer for a clip is (settings.py). Too short a clip gives its last frame's.

        `form`: of the labels; `of_frames`: they are of frames, which count one by one.
        """
        self._form, self._of_frames = form, of_frames
        self._items: list[tuple[NDArray[np.int64], Labels, Tensor]] = []  # frames' clips, labels and answers
        self._replaced = frames_replaced(answer)
        self._seen: dict[int, int] = {}
        self._sums: dict[int, Tensor] = {}
        self._frames: dict[int, int] = {}
        self._labels: dict[int, Any] = {}
        self._pictures: Tensor | None = None

    def add(self, clips: NDArray[np.int64], labels: Labels, answers: Tensor) -> None:
        """Add a frame batch with labels. Rows that have no label, or the clip `NO_CLIP`, are skipped.

        Args:
            clips: int64 [rows].
            labels: of the given form.
            answers: what the outputs say, float64 [rows, classes or numbers].
        """
        counts = (clips != NO_CLIP) & self._form.known(labels)
        if not self._of_frames:
            self._add(clips, labels, answers.cpu(), counts, self._replaced)
        elif counts.any():
            rows = np.flatnonzero(counts)
            self._items.append((clips[rows], labels[rows], answers.float().cpu()[rows]))

    def add_outputs(
        self,
        clips: NDArray[np.int64],
        labels: NDArray[np.int64],
        y: Tensor,
        target: Tensor,
        target_clips: NDArray[np.int64],
    ) -> None:
        """Add a frame batch whose outputs are compared with frames.

        Args:
            clips, labels: int64 [rows]; rows with clip `NO_CLIP` are skipped.
            y, target: [rows, channels, height, width].
            target_clips: int64 [rows], the clips of the targets; rows where it differs from `clips` are skipped.
        """
        error = F.mse_loss(y.float(), target, reduction="none").double().flatten(1).mean(1, keepdim=True).cpu()
        if self._pictures is None:
            self._pictures = torch.stack([target[:_PICTURES], y[:_PICTURES].float()]).cpu()
        self._add(clips, labels, error, (clips != NO_CLIP) & (clips == target_clips), 1)

    def scores(self) -> Scores:
        """The sums so far, ordered by clip id."""
        if self._items:
            clips_of, labels, answers = zip(*self._items, strict=True)
            frames = Scores(
                torch.from_numpy(np.concatenate(clips_of)),
                torch.from_numpy(np.concatenate(labels)),
                torch.ones(sum(map(len, clips_of)), dtype=torch.int64),
                torch.cat(answers),
            )
            return _ordered(frames)
        clips = sorted(self._sums)
        return Scores(
            clips=torch.tensor(clips, dtype=torch.int64),
            labels=torch.from_numpy(self._labels_of(clips)),
            frames=torch.tensor([self._frames[clip] for clip in clips], dtype=torch.int64),
            sums=torch.stack([self._sums[clip] for clip in clips]) if clips else torch.zeros(0, 1),
            pictures=self._pictures,
        )

    def _labels_of(self, clips: list[int]) -> Labels:
        labels = self._form.empty(len(clips))
        for row, clip in enumerate(clips):
            labels[row] = self._labels[clip]
        return labels

    def _add(
        self,
        clips: NDArray[np.int64],
        labels: Labels,
        values: Tensor,
        valid: NDArray[np.bool_],
        replaced: float,
    ) -> None:
        for row in np.flatnonzero(valid).tolist():
            clip = int(clips[row])
            self._seen[clip] = self._seen.get(clip, 0) + 1
            adds = self._seen[clip] > replaced
            self._sums[clip] = self._sums[clip] + values[row] if adds else values[row].clone()
            self._frames[clip] = self._frames[clip] + 1 if adds else 1
            self._labels[clip] = labels[row].copy()
