"""Who plays what: B slots, each an endless sequence of clips, or each its share of them once.

Slot s plays the entries s, s + B, s + 2B, … of the play list: the epochs' permutations of the clips, one after another.
So what a slot plays depends on the seed alone, not on how fast anything was decoded, and the slots need no common
clock. An entry's number is the clip id that rides with its rows, and with the seed it fixes the clip's augmentation.

Where a slot is, is an entry and how many of its frames have been handed out: a stream that starts there goes on with
the very same frames.

    decoding processes ──frames──► ring ──one copy a tick──► batch        slot s belongs to process s mod n
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.messages import Ended, Filled
from coordinator.video.decoder_pool.pool import DecoderPool
from coordinator.video.files.clips import Clip
from coordinator.video.stream import Places
from coordinator.video.stream import PlaybackErrors as PlaybackErrors


class Slots:
    """Plays the clips into batches, decoding ahead in processes of its own. A Stream."""

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
        self.errors = PlaybackErrors()
        places = list(start or [(slot, 0) for slot in range(data.slots)])
        assert [entry % data.slots for entry, _ in places] == list(range(data.slots)), "places of other slots"
        job = Job(clips, data, seed, train, mismatch)
        self._crew = DecoderPool(job, places, self._hear, self.errors, patience, meanwhile)
        self._ring = self._crew.ring
        self._coming: list[deque[Filled | Ended]] = [deque() for _ in places]
        self._playing: list[Filled | None] = [None] * data.slots
        # of every slot: the ring's row of its next frame, how many follow in its chunk, its entry, its frames so far
        self._rows = np.full(data.slots, self._ring.black)
        self._left = np.zeros(data.slots, np.int64)
        self._clips, self._done = (np.array(column, np.int64) for column in zip(*places, strict=True))
        self._labels = np.full(data.slots, -1)
        self._alive = np.ones(data.slots, np.int64)  # 0: it has run out

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
        """Write the next frame of every slot. Rows of slots that have run out get zeros and the id -1.

        Args:
            frames: uint8 [slots, channels, size, size]; clips, labels: int64 [slots].

        Returns:
            False, with nothing written, when every slot has run out.

        Raises:
            DataError: not one clip can be decoded, or a decoder is stuck.
        """
        turns = np.flatnonzero(self._left < self._alive)
        if len(turns):
            for slot in turns.tolist():
                self._turn(slot)
            self._crew.send()
        if not self._alive.any():
            return False
        np.take(self._ring.pixels, self._rows, axis=0, out=frames, mode="clip")  # the mode that needs no other buffer
        np.copyto(clips, self._clips)
        np.copyto(labels, self._labels)
        clips[self._alive == 0] = -1
        self._rows += self._alive
        self._done += self._alive
        self._left -= self._alive
        return True

    def places(self) -> Places:
        """Of each slot the entry of the play list, and how many of its frames `fill` has handed out."""
        return list(zip(self._clips.tolist(), self._done.tolist(), strict=True))

    def close(self) -> None:
        """Stop decoding."""
        self._crew.close()

    def _turn(self, slot: int) -> None:
        """Let go of the half that was played, and begin with the other."""
        played = self._playing[slot]
        if played is not None:
            self._crew.grant(slot, played.half)
        while not self._coming[slot]:
            self._crew.listen(slot)
        chunk = self._coming[slot].popleft()
        if isinstance(chunk, Filled):
            self._playing[slot] = chunk
            self._rows[slot], self._left[slot] = self._ring.half(slot, chunk.half), chunk.frames
            self._clips[slot], self._done[slot], self._labels[slot] = chunk.clip, chunk.before, chunk.label
        elif chunk.failure:
            raise DataError(chunk.failure)
        else:
            self._rows[slot], self._alive[slot], self._labels[slot] = self._ring.black, 0, -1

    def _hear(self, news: Filled | Ended) -> None:
        self._coming[news.slot].append(news)
