"""Who plays what: B slots, each an endless sequence of clips, or each its share of them once.

Slot s plays the entries s, s + B, s + 2B, … of the play list: the epochs' permutations of the clips, one after another.
So what a slot plays depends on the seed alone, not on how fast anything was decoded, and the slots need no common
clock. An entry's number is the clip id that rides with its rows, and with the seed it fixes the clip's augmentation.

Where a slot is, is an entry and how many of its frames have been handed out: a stream that starts there goes on with
the very same frames.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch
from numpy.typing import NDArray

from common.config import Data
from common.errors import DataError
from coordinator.stream.augment import Augment, centre, draw
from coordinator.stream.base import Mishaps as Mishaps
from coordinator.stream.clips import Clip
from coordinator.stream.playlist import Loop, Order, PlayList
from coordinator.stream.probe import reason
from coordinator.stream.reader import decode, frame_files
from coordinator.stream.scaler import Picture, Scaler

T = TypeVar("T")

_SLICE = 0.2  # seconds


@dataclass(frozen=True)
class Chunk:
    """Successive frames of a clip, how many of it came before, and their pixels once they are converted and cut.

    A frame's channels are each [size, size].
    """

    clip: int
    label: int
    before: int
    count: int
    pixels: "Future[Sequence[Picture]]"


class Slots:
    """Plays the clips into batches, decoding ahead in background threads. A Stream."""

    def __init__(
        self,
        clips: list[Clip],
        data: Data,
        seed: int,
        train: bool,
        mismatch: int = 0,
        patience: float = 60.0,
        meanwhile: Callable[[], None] = lambda: None,
        start: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """`train`: shuffled, augmented and endless; else each clip once.

        Args:
            mismatch: of the bottom stage, in frames; clips no longer than it are counted as short.
            patience: seconds that `fill` waits for a decoder before it gives up.
            meanwhile: runs now and then while it waits, and may raise.
            start: the `places` of a stream like this one, to go on from there.
        """
        self.mishaps = Mishaps()
        self._list: Order = Loop(clips, data.slots) if train and data.loop else PlayList(clips, seed, endless=train)
        self._data, self._seed, self._mismatch, self._patience = data, seed, mismatch, patience
        self._hopeless: set[Path] = set()  # files that gave no frame: not tried again
        self._files = len({clip.path for clip in clips})
        # two sorts of threads: what is converted and cut keeps no decoder waiting
        self._pool = ThreadPoolExecutor(data.threads, "decode")
        self._finishers = ThreadPoolExecutor(data.threads, "finish", _alone if train and data.computes else None)
        places = start or [(slot, 0) for slot in range(data.slots)]
        assert [entry % data.slots for entry, _ in places] == list(range(data.slots)), "places of other slots"
        self._slots = [_Slot(self._pool, self._chunks(*place), meanwhile, place) for place in places]

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
                for channel, pixels in enumerate(slot.pop()):
                    frames[row, channel] = pixels
                clips[row], labels[row] = head.clip, head.label
        return True

    def places(self) -> list[tuple[int, int]]:
        """Of each slot the entry of the play list, and how many of its frames `fill` has handed out."""
        return [slot.place for slot in self._slots]

    def close(self) -> None:
        """Stop decoding."""
        for pool in (self._pool, self._finishers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _chunks(self, entry: int, done: int) -> Iterator[Chunk]:
        """All that a slot plays, from behind the first `done` frames of an entry on.

        Runs in the decoding threads, one step at a time.
        """
        for number in count(entry, self._data.slots):
            clip = self._list.entry(number)
            if clip is None:
                return
            if clip.path in self._hopeless:
                self.mishaps.add("skipped")
            else:
                yield from self._play(number, clip, done)
            done = 0
            if self._list.endless and len(self._hopeless) == self._files:
                raise DataError(
                    f"not one of the {self._files} clips can be decoded: {'; '.join(self.mishaps.reasons[:3])}"
                )

    def _play(self, number: int, clip: Clip, done: int) -> Iterator[Chunk]:
        """One entry, its first `done` frames left out."""
        random = np.random.default_rng([self._seed, 1, number])
        first, length = self._span(number, clip, random)
        augment, played = None, done
        try:
            for scaler, frames in self._read(clip, first + done, None if length is None else length - done):
                augment = augment or self._augment(scaler.shape, random)
                pixels = self._finishers.submit(self._finish, clip, scaler, augment, frames)
                yield Chunk(number, clip.label, played, len(frames), pixels)
                played += len(frames)
            if not played:
                raise DataError(f"{clip.path}: it has no frames from number {first} on")
        except DataError as error:
            self.mishaps.add("broken" if played else "skipped", str(error))
        if not played and self._gives_nothing(clip):
            self._hopeless.add(clip.path)
        elif 0 < played <= self._mismatch:
            self.mishaps.add("short")

    def _finish(
        self, clip: Clip, scaler: Scaler, augment: Augment, frames: Sequence[av.VideoFrame]
    ) -> Sequence[Picture]:
        """Pixels of decoded frames. One that cannot be converted, as those before it could, is the one before again."""
        pictures: list[Picture] = []
        for frame in frames:
            try:
                pictures.append(scaler(frame))
            except (av.FFmpegError, ValueError) as error:
                self.mishaps.add("broken", f"{clip.path}: {reason(error)}")
                blank = np.zeros(scaler.shape, np.uint8)
                pictures.append(pictures[-1] if pictures else [blank] * self._data.channels)
        return augment.cut(pictures)

    def _gives_nothing(self, clip: Clip) -> bool:
        """Whether not even the first frame can be had: else the file only ended before the frames that were wanted."""
        try:
            return next(self._read(clip, 0, 1), None) is None
        except DataError:
            return True

    def _span(self, number: int, clip: Clip, random: np.random.Generator) -> tuple[int, int | None]:
        """The frame with which the entry begins, and how many it plays; None: all there are."""
        first, window = self._list.first(number), self._data.window
        if window is None or not self._list.endless:
            return first, None
        return int(random.integers(0, max(0, clip.frames - window) + 1)), window

    def _read(self, clip: Clip, skip: int, limit: int | None) -> Iterator[tuple[Scaler, list[av.VideoFrame]]]:
        data = self._data
        files = frame_files(clip.path, data.frame_files, clip.pictures)
        return decode(
            clip.path,
            data.stride,
            data.short_side,
            data.channels,
            fps=data.fps,
            skip=skip,
            limit=limit,
            frame_files=files,
        )

    def _augment(self, shape: Sequence[int], random: np.random.Generator) -> Augment:
        """The choices for one entry of the play list: fixed by the seed and its number."""
        return draw(shape, self._data, random) if self._list.endless else centre(shape, self._data.size)


def _alone() -> None:
    """A decoding thread computes by itself: with helpers of its own it would wait for them, spinning."""
    torch.set_num_threads(1)


class _Slot:
    """One slot's place: the chunk being played, and the next one, on its way."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        chunks: Iterator[Chunk],
        meanwhile: Callable[[], None],
        place: tuple[int, int],
    ) -> None:
        self.place = place  # entry, frames of it that were handed out
        self._pool, self._chunks, self._meanwhile = pool, chunks, meanwhile
        self._chunk: Chunk | None = None
        self._pixels: Sequence[Picture] = ()
        self._position = 0
        self._next: Future[Chunk | None] | None = pool.submit(next, chunks, None)

    def head(self, patience: float) -> Chunk | None:
        """The chunk whose frame comes next; None when the slot has run out."""
        if self._chunk is not None and self._position < self._chunk.count:
            return self._chunk
        if self._next is None:
            return None
        self._chunk = self._await(self._next, patience)
        self._position = 0
        if self._chunk is None:
            self._next = None
            return None
        self._pixels = self._await(self._chunk.pixels, patience)  # first: a scaler serves one thread at a time
        self._next = self._pool.submit(next, self._chunks, None)
        return self._chunk

    def pop(self) -> Picture:
        """Take the next frame."""
        assert self._chunk is not None
        self._position += 1
        self.place = self._chunk.clip, self._chunk.before + self._position
        return self._pixels[self._position - 1]

    def _await(self, future: "Future[T]", patience: float) -> T:
        end = time.monotonic() + patience
        while True:
            try:
                return future.result(_SLICE)
            except TimeoutError:
                self._meanwhile()
            if time.monotonic() > end:
                raise DataError(f"a clip took longer than {patience:g} s to decode: is the disk or the stream stuck?")
