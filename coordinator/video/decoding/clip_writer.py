"""Write the pixels of one playing of a clip, cropped, to the memory from which it is played."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from coordinator.video.decoding.augment import UNCHANGED, Augment, Colours
from coordinator.video.decoding.pictures import PictureSource


class ClipWriter:
    """Writes the frames of one playing, all with the same augmentation."""

    def __init__(self, draw_augmentation: Callable[[Sequence[int]], Augment], source: PictureSource) -> None:
        """`draw_augmentation`: for frames of shape (height, width)."""
        self._choose, self._source = draw_augmentation, source
        self._augment: Augment | None = None

    @property
    def mirrored(self) -> bool:
        """Whether the frames that were written are flipped."""
        return self._augment is not None and self._augment.mirrored

    @property
    def colours(self) -> Colours:
        """By which the first stage is to jitter the frames that were written."""
        return self._augment.colours if self._augment is not None and self._augment.later else UNCHANGED

    def write(self, out: NDArray[Any]) -> int:
        """Write the next frames into `out`, [n, channels, height, width].

        Returns:
            How many were written: n, or fewer at the clip's end.
        """
        written = 0
        while written < len(out):
            pictures = self._source.take(len(out) - written)
            if not len(pictures):
                break
            augment = self._augment = self._augment or self._choose(pictures[0][0].shape)
            augment.write(pictures, out[written:])
            written += len(pictures)
        return written
