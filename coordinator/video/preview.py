"""What is copied of a step to be shown on the page: its first rows, of each frame every so many-th pixel."""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from common.rule.colour_jitter import ColourJitter
from coordinator.video.batch import Batch
from coordinator.video.targets import Step

Pictures = NDArray[Any]  # uint8 or uint16 [rows, channels, height, width]

_jitter = ColourJitter(torch.device("cpu"))


@dataclass(frozen=True)
class Preview:
    """A part of a step.

    Attributes:
        frame: its number.
        labels: of the rows.
        targets: None if they are the pictures themselves.
        known: which rows have a target.
    """

    frame: int
    pictures: Pictures
    labels: NDArray[Any]
    targets: Pictures | None
    known: list[bool]


def preview_of(frame: int, step: Step, rows: int, every: int) -> Preview:
    """Copy a part of a step: `rows` rows, and every `every`-th row and column of their pixels."""
    batch, target = step.batch, step.target
    return Preview(
        frame,
        reduced(batch, rows, every),
        batch.labels[:rows].copy(),
        None if target is batch else reduced(target, rows, every),
        (target.clips == batch.clips)[:rows].tolist(),
    )


def reduced(batch: Batch, rows: int, every: int) -> Pictures:
    """A copy of what is shown of a batch's frames, of the same type; jittered, if the first stage is to do that."""
    shown = batch.frames[:rows, :, ::every, ::every].copy()
    if batch.colours is None:
        return shown
    jittered: Pictures = _jitter(torch.from_numpy(shown), batch.colours[:rows]).numpy()
    return jittered


def reduced_shape(shape: tuple[int, int, int, int], rows: int, every: int) -> tuple[int, int, int, int]:
    """The shape of what is shown of frames of this shape."""
    _, channels, height, width = shape
    return rows, channels, -(-height // every), -(-width // every)
