"""Plays clips in B slots: endless clips per slot in training, each clip once in evaluation.

Slot s plays entries s, s + B, s + 2B, … of the play order: the epochs' permutations of the clips, one after another.
So what a slot plays depends on the seed alone, not on decoding speed, and slots need no synchronisation. An entry's
number is the clip id of its rows; with the seed it determines the clip's augmentation.

A slot's place is an entry and how many of its frames were handed out. A stream that starts there continues with
exactly the same frames.

    decoder processes ──frames──► ring ──one copy per tick──► batch        slot s belongs to process s mod n
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from common.rule.label_form import ONE_CLASS, LabelForm, Labels
from coordinator.video.cache.place import CachePlace
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.messages import Ended, Filled
from coordinator.video.decoder_pool.pool import DecoderPool
from coordinator.video.files.clips import Clip
from coordinator.video.files.shards_ahead import ShardsAhead
from coordinator.video.stream import Places
from coordinator.video.stream import PlaybackErrors as PlaybackErrors


class Slots:
    """Plays clips into batches, decoded ahead by its own processes. A `Stream`."""

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
        cache: CachePlace | None = None,
        form: LabelForm = ONE_CLASS,
        share: range | None = None,
    ) -> None:
        """Start the decoder processes.

        Args:
            train: shuffled, augmented and endless; else each clip once.
            mismatch: that of the bottom stage, in frames; clips no longer than it are counted as short.
            patience: seconds that `fill` waits for a decoder before it raises.
            meanwhile: called about every 0.2 s while `fill` waits; may raise.
            start: `places` of an earlier stream with the same arguments, to resume from.
            cache: where decoded frames are kept, if anywhere; streams may share it. It changes no frame.
            form: of the clips' labels.
            share: the slots to play, if not all of them; rows and places are theirs.

        Raises:
            DataError: the memory for decoded frames cannot be allocated.
        """
        self.errors, self.form = PlaybackErrors(), form
        job = Job(clips, data, seed, train, mismatch, cache=cache, share=share)
        places, rows = list(start or [(slot, 0) for slot in job.slots]), len(job.slots)
        assert [entry % data.slots for entry, _ in places] == list(job.slots), "places of other slots"
        self._pool = DecoderPool(job, places, self._on_message, self.errors, patience, meanwhile)
        self._ring = self._pool.ring
        self._pending: list[deque[Filled | Ended]] = [deque() for _ in places]
        self._playing: list[Filled | None] = [None] * rows
        # per slot: the ring's row of its next frame, frames left in its chunk, its entry, the entry's frames so far
        self._rows = np.full(rows, self._ring.black)
        self._left = np.zeros(rows, np.int64)
        self._clips, self._frames_played = (np.array(column, np.int64) for column in zip(*places, strict=True))
        self._labels = form.empty(len(self._ring.pixels))  # of the frames in the ring's rows
        self._alive = np.ones(rows, np.int64)  # 0: the slot has run out
        first = min(entry for entry, _ in places)
        self._ahead = ShardsAhead(clips, data, job.order(), first, lambda: int(self._clips.max()))

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: Labels) -> bool:
        """Write the next frame of every slot. Rows of slots that have run out get zeros, the clip id -1 and no label.

        Args:
            frames: uint8 [slots, channels, height, width].
            clips: int64 [slots].
            labels: int64 [slots], or float32 [slots, width].

        Returns:
            False, with nothing written, when every slot has run out.

        Raises:
            DataError: no clip can be decoded, a decoder is stuck, or decoders keep dying.
        """
        due = np.flatnonzero(self._left < self._alive)
        if len(due):
            for slot in due.tolist():
                self._next_chunk(slot)
            self._pool.send()
        if not self._alive.any():
            return False
        np.take(self._ring.pixels, self._rows, axis=0, out=frames, mode="clip")  # the default mode buffers `out`
        np.copyto(clips, self._clips)
        np.take(self._labels, self._rows, axis=0, out=labels, mode="clip")
        clips[self._alive == 0] = -1
        self._rows += self._alive
        self._frames_played += self._alive
        self._left -= self._alive
        return True

    def places(self) -> Places:
        """Per slot its entry of the play order, and how many of the entry's frames `fill` has handed out."""
        return list(zip(self._clips.tolist(), self._frames_played.tolist(), strict=True))

    def close(self) -> None:
        """Stop decoding."""
        self._ahead.close()
        self._pool.close()

    def _next_chunk(self, slot: int) -> None:
        """Return the half that was played to the decoder, and start with the other once it is filled."""
        played = self._playing[slot]
        if played is not None:
            self._pool.grant(slot, played.half)
        while not self._pending[slot]:
            self._pool.receive(slot)
        chunk = self._pending[slot].popleft()
        if isinstance(chunk, Filled):
            self._playing[slot] = chunk
            self._rows[slot], self._left[slot] = self._ring.half(slot, chunk.half), chunk.frames
            self._clips[slot], self._frames_played[slot] = chunk.clip, chunk.before
            self._labels[self._rows[slot] : self._rows[slot] + chunk.frames] = chunk.label
        elif chunk.failure:
            raise DataError(chunk.failure)
        else:
            self._rows[slot], self._alive[slot] = self._ring.black, 0

    def _on_message(self, message: Filled | Ended) -> None:
        self._pending[message.slot].append(message)
