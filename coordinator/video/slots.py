"""Plays clips in B slots: endless clips per slot in training, each clip once in evaluation.

Slot s plays entries s, s + B, s + 2B, … of the play order: the epochs' permutations of the clips, one after another.
So what a slot plays depends on the seed alone, not on decoding speed, and slots need no synchronisation. An entry's
number is the clip id of its rows; with the seed it determines the clip's augmentation.

A slot's place is an entry and how many of its frames were handed out. A stream that starts there continues with
exactly the same frames.

    decoder processes ──frames──► ring, which holds a batch per tick        slot s belongs to process s mod n
"""

from collections.abc import Sequence

import numpy as np

from common.errors import DataError
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.packet import NO_CLIP
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.messages import Ended, Filled
from coordinator.video.decoder_pool.pool import DecoderPool, Waiting
from coordinator.video.files.shards_ahead import ShardsAhead
from coordinator.video.stream import Places, PlaybackErrors

_WAITING = Waiting()


class Slots:
    """Plays clips into batches, decoded ahead by its own processes. A `Stream`."""

    def __init__(
        self,
        job: Job,
        form: LabelForm = ONE_CLASS,
        start: Sequence[tuple[int, int]] | None = None,
        waiting: Waiting = _WAITING,
    ) -> None:
        """Start the decoder processes.

        Args:
            job: what is played. With a share, rows and places are those of its slots.
            form: of the clips' labels.
            start: `places` of an earlier stream with the same arguments, to resume from.
            waiting: of `fill`.

        Raises:
            DataError: the memory for decoded frames cannot be allocated.
        """
        self.errors, self.form = PlaybackErrors(), form
        places, rows = list(start or [(slot, 0) for slot in job.slots]), len(job.slots)
        assert [entry % job.data.slots for entry, _ in places] == list(job.slots), "places of other slots"
        self._pool = DecoderPool(job, places, self._on_message, self.errors, waiting)
        self._ring, self._tick, self._job = self._pool.ring, 0, job
        # of the frames in the ring, [ticks, slots]: their entries, the entries' frames before them, labels, colours
        self._clips, self._before = (np.zeros((self._ring.ticks, rows), np.int64) for _ in range(2))
        labels = form.empty(self._ring.ticks * rows)
        self._labels = labels.reshape(self._ring.ticks, rows, *labels.shape[1:])
        self._colours = np.empty((self._ring.ticks, rows, 4)) if job.train and job.data.jittered_later else None
        self._begin(places)

    def rewind(self) -> None:
        """Play all once more, with the same processes. Every slot must have run out."""
        places = [(slot, 0) for slot in self._job.slots]
        self._ahead.close()
        self._begin(places)
        self._pool.rewind(places, self._tick)

    def _begin(self, places: Places) -> None:
        rows, job = len(places), self._job
        self._decoded = np.full(rows, self._tick)  # by slot: the tick up to which its frames are in the ring
        self._ended: list[Ended | None] = [None] * rows
        self._entries, self._frames_played = (np.array(column, np.int64) for column in zip(*places, strict=True))
        self._alive = np.ones(rows, np.bool_)  # False: the slot has run out
        first = min(entry for entry, _ in places)
        self._ahead = ShardsAhead(job.clips, job.data, job.order(), first, lambda: int(self._entries.max()))

    def fill(self, batch: Batch) -> bool:
        """Take the next frame of every slot. Rows of slots that have run out get zeros, the clip id -1 and no label.

        Args:
            batch: its frames become a view of the ring, valid until `IN_USE` + `job.ahead` more batches were taken.

        Returns:
            False, with nothing changed, when every slot has run out.

        Raises:
            DataError: no clip can be decoded, a decoder is stuck, or decoders keep dying.
        """
        self._pool.let_decode(self._ring.decodable_until(self._tick))
        for slot in np.flatnonzero(self._alive & (self._decoded <= self._tick)).tolist():
            self._wait_for(slot)
        alive = self._alive
        if not alive.any():
            return False
        place = self._tick % self._ring.ticks
        batch.memory, batch.frames = self._ring.memory, self._ring.pixels[place]
        batch.clips[:], batch.labels[:] = self._clips[place], self._labels[place]
        batch.colours = None if self._colours is None else self._colours[place]
        np.copyto(self._entries, self._clips[place], where=alive)
        np.copyto(self._frames_played, self._before[place] + 1, where=alive)
        if not alive.all():
            batch.frames[~alive], batch.clips[~alive] = 0, NO_CLIP
            batch.labels[~alive] = self.form.empty(1)
        self._tick += 1
        return True

    def places(self) -> Places:
        """Per slot its entry of the play order, and how many of the entry's frames `fill` has handed out."""
        return list(zip(self._entries.tolist(), self._frames_played.tolist(), strict=True))

    def close(self) -> None:
        """Stop decoding."""
        self._ahead.close()
        self._pool.close()

    def _wait_for(self, slot: int) -> None:
        """Wait until the slot's frame of this tick is decoded, or the slot has run out. Raises DataError."""
        while self._decoded[slot] <= self._tick:
            ended = self._ended[slot]
            if ended is None:
                self._pool.receive(slot)
            elif ended.failure:
                raise DataError(ended.failure)
            else:
                self._alive[slot] = False
                return

    def _on_message(self, message: Filled | Ended) -> None:
        slot = message.slot
        if isinstance(message, Ended):
            self._ended[slot] = message
            return
        first = message.tick % self._ring.ticks
        frames = slice(first, first + message.frames)
        self._clips[frames, slot], self._labels[frames, slot] = message.clip, message.label
        self._before[frames, slot] = np.arange(message.before, message.before + message.frames)
        if self._colours is not None:
            self._colours[frames, slot] = message.colours
        self._decoded[slot] = message.tick + message.frames
