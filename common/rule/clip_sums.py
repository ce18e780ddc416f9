"""Per-clip sums of an evaluation: of the softmax, or of the mean squared error against a target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Answer
from common.rule.packet import NO_CLIP

_PICTURES = 8  # rows


@dataclass(frozen=True)
class Scores:
    """Result of an evaluation: for each of n clips the sum over its frames of the softmax or mean squared error.

    Attributes:
        clips, labels: int64 [n].
        frames: number of frames of each clip that count, int64 [n].
        sums: float64 [n, classes], or [n, 1] for the mean squared error.
        pictures: targets and outputs of a few rows, normalised, float [2, rows, channels, height, width]; None for
            tasks with labels.
    """

    clips: Tensor
    labels: Tensor
    frames: Tensor
    sums: Tensor
    pictures: Tensor | None = None


def merged(parts: Sequence[Scores]) -> Scores:
    """The result of evaluations of different clips, ordered by clip id; with the pictures of the first."""
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if len(part.clips)] or parts[:1]
    clips = torch.cat([part.clips for part in parts])
    order = clips.argsort()
    labels, frames, sums = (
        torch.cat([getattr(part, name) for part in parts])[order] for name in ("labels", "frames", "sums")
    )
    return Scores(clips[order], labels, frames, sums, parts[0].pictures)


def frames_replaced(answer: Answer) -> float:
    """Up to which of its frames, counted from 1, a clip's answer is that of the frame alone; later ones are added."""
    if answer == "mean":
        return 1
    return math.inf if answer == "last" else answer + 1


class ClipSums:
    """Accumulates sums per clip id."""

    def __init__(self, answer: Answer = "mean") -> None:
        """`answer`: what a classifier's answer for a clip is (settings.py). Too short a clip gives its last frame's."""
        self._replaced = frames_replaced(answer)
        self._seen: dict[int, int] = {}
        self._sums: dict[int, Tensor] = {}
        self._frames: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._pictures: Tensor | None = None

    def add_logits(self, clips: NDArray[np.int64], labels: NDArray[np.int64], logits: Tensor) -> None:
        """Add a frame batch of a classifier.

        Args:
            clips, labels: int64 [rows]; rows with clip `NO_CLIP` are skipped.
            logits: [rows, classes].
        """
        self._add(clips, labels, F.softmax(logits.double(), dim=1).cpu(), clips != NO_CLIP, self._replaced)

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
        clips = sorted(self._sums)
        return Scores(
            clips=torch.tensor(clips, dtype=torch.int64),
            labels=torch.tensor([self._labels[clip] for clip in clips], dtype=torch.int64),
            frames=torch.tensor([self._frames[clip] for clip in clips], dtype=torch.int64),
            sums=torch.stack([self._sums[clip] for clip in clips]) if clips else torch.zeros(0, 1),
            pictures=self._pictures,
        )

    def _add(
        self,
        clips: NDArray[np.int64],
        labels: NDArray[np.int64],
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
            self._labels[clip] = int(labels[row])
