"""A tick's frames, as a stream gives them."""

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.packet import NO_CLIP
from common.shared_memory.frame_memory import FrameMemory


class Batch:
    """One tick's frames; its memory is reused.

    Attributes:
        frames: uint8 or uint16 [slots, channels, height, width].
        memory: whose view `frames` are; None if they are the batch's own.
        clips: int64 [slots].
        labels: int64 [slots], or float32 [slots, width].
        form: of the labels.
        colours: float64 [slots, 4], by which the first stage is to jitter the frames; None: not at all.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], pixel_type: str = "uint8", form: LabelForm = ONE_CLASS
    ) -> None:
        self.frames: NDArray[Any] = np.zeros(shape, pixel_type)
        self.memory: FrameMemory | None = None
        self.clips: NDArray[np.int64] = np.full(shape[0], NO_CLIP)
        self.labels, self.form = form.empty(shape[0]), form
        self.colours: NDArray[np.float64] | None = None

    def share(self, number: int, of: int) -> "Batch":
        """The rows of one of `of` replicas, in the same memory."""
        rows = len(self.clips) // of
        part = copy(self)
        own = slice(number * rows, (number + 1) * rows)
        part.frames, part.clips, part.labels = self.frames[own], self.clips[own], self.labels[own]
        part.colours = None if self.colours is None else self.colours[own]
        return part

    def copy_from(self, other: "Batch") -> None:
        """Copy the contents of another batch of the same shape."""
        self.frames[:], self.clips[:], self.labels[:] = other.frames, other.clips, other.labels
        self.colours = None if other.colours is None else other.colours.copy()
