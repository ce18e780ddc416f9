"""A share of the slots replays clips that other slots have played before, from a reservoir (Vitter, 1985)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coordinator.video.batch import Batch

_FIRST_ID = 1 << 40  # of replayed clips: above all others
_KEPT = 128  # clips in the reservoir


@dataclass
class _Clip:
    """A clip as it was played: frames uint8 [channels, height, width], and its label."""

    id: int
    label: NDArray[np.generic]
    frames: list[NDArray[np.uint8]] = field(default_factory=list)


class Replay:
    """Overwrites the last slots of batches."""

    def __init__(self, slots: int, share: float, seed: int) -> None:
        """`slots`: all of a batch; `share` of them replay."""
        self._recorded, self._slots = range(slots - round(slots * share)), slots
        self._random = np.random.default_rng([seed, 2])
        self._reservoir: list[_Clip] = []
        self._current: dict[int, _Clip] = {}  # by recorded slot
        self._replayed: dict[int, tuple[_Clip, int, int]] = {}  # by other slot: the clip, its new id, the frames played
        self._seen = self._given = 0

    def fill(self, batch: Batch) -> None:
        """Take what the recorded slots play, and overwrite the rows of the others, once there is a clip to replay."""
        for slot in self._recorded:
            self._record(slot, batch)
        for slot in range(len(self._recorded), self._slots) if self._reservoir else ():
            clip, number, played = self._replayed.get(slot) or self._begin()
            batch.frames[slot], batch.clips[slot], batch.labels[slot] = clip.frames[played], number, clip.label
            self._replayed[slot] = clip, number, played + 1
            if played + 1 == len(clip.frames):
                del self._replayed[slot]

    def _record(self, slot: int, batch: Batch) -> None:
        clip, number = self._current.get(slot), int(batch.clips[slot])
        if clip is None or clip.id != number:
            if clip is not None:
                self._keep(clip)
            clip = self._current[slot] = _Clip(number, batch.labels[slot].copy())
        clip.frames.append(batch.frames[slot].copy())

    def _keep(self, clip: _Clip) -> None:
        self._seen += 1
        place = len(self._reservoir) if self._seen <= _KEPT else int(self._random.integers(self._seen))
        if place < _KEPT:
            self._reservoir[place : place + 1] = [clip]

    def _begin(self) -> tuple[_Clip, int, int]:
        self._given += 1
        clip = self._reservoir[int(self._random.integers(len(self._reservoir)))]
        return clip, _FIRST_ID + self._given, 0
