"""In which order the clips are played. Entry n of the play list is played by slot n mod B, and n is its clip id."""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.video.files.clips import Clip

_EPOCHS_KEPT = 64  # slots are at different places of the play list, some epochs apart if there are few clips


class PlayOrder(Protocol):
    """An order of clips; any entry is found at once, without those before it."""

    endless: bool

    def entry(self, number: int) -> Clip | None:
        """The clip that entry `number` plays; None beyond the end."""

    def first(self, number: int) -> int:
        """The clip's frame with which the entry begins."""


class ShuffledOrder:
    """The clips shuffled anew in each epoch, or once through in their own order."""

    def __init__(self, clips: list[Clip], seed: int, endless: bool) -> None:
        self.clips, self.seed, self.endless = clips, seed, endless
        self._permutation = lru_cache(maxsize=_EPOCHS_KEPT)(self._shuffle)

    def entry(self, number: int) -> Clip | None:
        """The clip that entry `number` plays; None beyond the end."""
        epoch, position = divmod(number, len(self.clips))
        if not self.endless:
            return self.clips[position] if epoch == 0 else None
        return self.clips[self._permutation(epoch)[position]]

    def first(self, number: int) -> int:
        """Clips are played from their beginning."""
        return 0

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.clips))


class LoopOrder:
    """Long files round and round: slot s plays file s mod n, and begins at s/B of its length."""

    def __init__(self, clips: list[Clip], slots: int) -> None:
        self.clips, self.slots, self.endless = clips, slots, True

    def entry(self, number: int) -> Clip:
        """The file of the entry's slot."""
        return self.clips[number % self.slots % len(self.clips)]

    def first(self, number: int) -> int:
        """Slots begin spread over the file; from their second round on they play all of it."""
        return number * self.entry(number).frames // self.slots if number < self.slots else 0
