"""Who plays what: B slots, each an endless sequence of clips, or each its share of them once.

Slot s plays the entries s, s + B, s + 2B, … of the play list: the epochs' permutations of the clips, one after another.
So what a slot plays depends on the seed alone, not on how fast anything was decoded, and the slots need no common
clock. An entry's number is the clip id that rides with its rows, and with the seed it fixes the clip's augmentation.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.config import Data
from common.errors import DataError
from coordinator.stream.augment import Augment, draw, middle
from coordinator.stream.clips import Clip
from coordinator.stream.reader import read

_EPOCHS_KEPT = 64  # slots are at different places of the play list, some epochs apart if there are few clips
_SLICE = 0.2  # seconds


@dataclass
class Mishaps:
    """What went wrong while playing, counted, with the first few reasons. Written by decoding threads."""

    skipped: int = 0
    broken: int = 0
    short: int = 0
    reasons: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, reason: str = "") -> None:
        """Count a clip as `skipped` (nothing decoded), `broken` (ended early) or `short` (under the mismatch)."""
        with self._lock:
            setattr(self, kind, getattr(self, kind) + 1)
            if reason and reason not in self.reasons and len(self.reasons) < 20:
                self.reasons.append(reason)


@dataclass(frozen=True)
class Chunk:
    """Successive frames of one clip. frames: uint8 [n, channels, size, size]."""

    clip: int
    label: int
    frames: NDArray[np.uint8]


class PlayList:
    """The order of the clips: shuffled anew in each epoch, or once through in their own order."""

    def __init__(self, clips: list[Clip], seed: int, endless: bool) -> None:
        self.clips, self.seed, self.endless = clips, seed, endless
        self._permutation = lru_cache(maxsize=_EPOCHS_KEPT)(self._shuffle)

    def entry(self, number: int) -> Clip | None:
        """The clip that entry `number` plays; None beyond the end."""
        epoch, position = divmod(number, len(self.clips))
        if not self.endless:
            return self.clips[position] if epoch == 0 else None
        return self.clips[self._permutation(epoch)[position]]

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.clips))


class Slots:
    """Plays the clips into batches, decoding ahead in background threads."""

    def __init__(
        self,
        clips: list[Clip],
        data: Data,
        seed: int,
        train: bool,
        mismatch: int = 0,
        patience: float = 60.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """`train`: shuffled, augmented and endless; else each clip once.

        Args:
            mismatch: of the bottom stage, in frames; clips no longer than it are counted as short.
            patience: seconds that `fill` waits for a decoder before it gives up.
            meanwhile: runs now and then while it waits, and may raise.
        """
        self.mishaps = Mishaps()
        self._list = PlayList(clips, seed, endless=train)
        self._data, self._seed, self._mismatch, self._patience = data, seed, mismatch, patience
        self._hopeless: set[Path] = set()  # files that gave no frame: not tried again
        self._files = len({clip.path for clip in clips})
        self._pool = ThreadPoolExecutor(data.threads, thread_name_prefix="decode")
        self._slots = [_Slot(self._pool, self._chunks(slot), meanwhile) for slot in range(data.slots)]

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
        """Write the next frame of every slot. Rows of slots that have run out get zeros and the id -1.

        Args:
            frames: uint8 [slots, channels, size, size]; clips, labels: int64 [slots].

        Returns:
            False, with nothing written, when every slot has run out.

        Raises:
            DataError: not one clip can be decoded, or a decoder is stuck.
        """
        heads = [slot.head(self._patience) for slot in self._slots]
        if not any(heads):
            return False
        for row, (slot, head) in enumerate(zip(self._slots, heads, strict=True)):
            if head is None:
                frames[row], clips[row], labels[row] = 0, -1, -1
            else:
                frames[row] = slot.pop()
                clips[row], labels[row] = head.clip, head.label
        return True

    def close(self) -> None:
        """Stop decoding."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _chunks(self, slot: int) -> Iterator[Chunk]:
        """All that a slot plays. Runs in the decoding threads, one step at a time."""
        for number in count(slot, self._data.slots):
            clip = self._list.entry(number)
            if clip is None:
                return
            if clip.path in self._hopeless:
                self.mishaps.add("skipped")
            else:
                yield from self._play(number, clip)
            if self._list.endless and len(self._hopeless) == self._files:
                raise DataError(
                    f"not one of the {self._files} clips can be decoded: {'; '.join(self.mishaps.reasons[:3])}"
                )

    def _play(self, number: int, clip: Clip) -> Iterator[Chunk]:
        data, augment, played = self._data, None, 0
        try:
            for frames in read(clip.path, data.stride, data.short_side, data.channels):
                augment = augment or self._augment(frames, number)
                yield Chunk(number, clip.label, augment(frames).contiguous().numpy())
                played += len(frames)
            if not played:
                raise DataError(f"{clip.path}: it has no frames")
        except DataError as error:
            self.mishaps.add("broken" if played else "skipped", str(error))
        if not played:
            self._hopeless.add(clip.path)
        elif played <= self._mismatch:
            self.mishaps.add("short")

    def _augment(self, frames: Tensor, number: int) -> Augment:
        """The choices for one entry of the play list: fixed by the seed and its number."""
        if not self._list.endless:
            return middle(frames, self._data.size)
        return draw(frames, self._data.size, self._data.flip, np.random.default_rng([self._seed, 1, number]))


class _Slot:
    """One slot's place: the chunk being played, and the next one, on its way."""

    def __init__(self, pool: ThreadPoolExecutor, chunks: Iterator[Chunk], meanwhile: Callable[[], None]) -> None:
        self._pool, self._chunks, self._meanwhile = pool, chunks, meanwhile
        self._chunk: Chunk | None = None
        self._position = 0
        self._next: Future[Chunk | None] | None = pool.submit(next, chunks, None)

    def head(self, patience: float) -> Chunk | None:
        """The chunk whose frame comes next; None when the slot has run out."""
        if self._chunk is not None and self._position < len(self._chunk.frames):
            return self._chunk
        if self._next is None:
            return None
        self._chunk = self._await(self._next, patience)
        self._position = 0
        self._next = self._pool.submit(next, self._chunks, None) if self._chunk is not None else None
        return self._chunk

    def pop(self) -> NDArray[np.uint8]:
        """Take the next frame."""
        assert self._chunk is not None
        self._position += 1
        return self._chunk.frames[self._position - 1]

    def _await(self, future: "Future[Chunk | None]", patience: float) -> Chunk | None:
        end = time.monotonic() + patience
        while True:
            try:
                return future.result(_SLICE)
            except TimeoutError:
                self._meanwhile()
            if time.monotonic() > end:
                raise DataError(f"a clip took longer than {patience:g} s to decode: is the disk or the stream stuck?")
