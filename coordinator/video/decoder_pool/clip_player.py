"""Plays a slot: decodes its entries of the play order one after another and writes them as pixels.

Nothing here depends on processes or time: a player yields the same frames wherever and whenever it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from common.shared_memory.frame_memory import IN_USE
from coordinator.video.cache.cached_pictures import CachedPictures, RecordedPictures
from coordinator.video.cache.entry import StoredFrames
from coordinator.video.cache.frame_cache import FrameCache
from coordinator.video.cache.place import CachePlace
from coordinator.video.decoder_pool.snippets import Span, after, numbers, snippets
from coordinator.video.decoding.augment import UNCHANGED, Augment, Colours, centre, draw
from coordinator.video.decoding.clip_writer import ClipWriter
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.pictures import DecodedPictures, Frames, JoinedPictures, PictureSource
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip
from coordinator.video.files.labels import ChunkLabel, label_at, mirrored
from coordinator.video.files.play_order import (
    BalancedOrder,
    ListedOrder,
    LoopOrder,
    PlayOrder,
    ShardOrder,
    ShuffledOrder,
    exceed_cache,
)

ReportError = Callable[[str, str], None]  # a playback error's kind, and its reason
Room = Callable[[], NDArray[Any]]  # the buffer for the next chunk: [chunk, channels, height, width]

_SHORT = 512  # frames of a clip that is decoded whole when only a part of it is played, to keep it
_MOST_EMPTY = 20  # times as many entries as there are clips: with a single good clip, one of them would have been it
_CHUNK = 64  # frames decoded at a time for that


@dataclass
class Job:
    """What a stream plays.

    Attributes:
        train: whether clips are shuffled, augmented and endless; else each is played once.
        mismatch: that of the bottom stage, in frames; clips no longer than it are counted as short.
        undecodable: files that could be read, but of which no frame could be decoded; they are not tried again.
        cache: where decoded frames are kept, if anywhere.
        share: the slots that are played here; None: all of them.
        ahead: number of batches that are taken before the one that is being sent.
    """

    clips: list[Clip]
    data: Data
    seed: int
    train: bool
    mismatch: int = 0
    undecodable: set[Path] = field(default_factory=set)
    cache: CachePlace | None = None
    share: range | None = None
    ahead: int = 1

    @property
    def slots(self) -> range:
        """The slots that are played here, numbered as those of the whole stream."""
        return range(self.data.slots) if self.share is None else self.share

    @property
    def in_use(self) -> int:
        """Number of batches that are still read when the next one is needed."""
        return IN_USE + self.ahead

    @property
    def of_share(self) -> Data:
        """The settings with so many slots as are played here."""
        return self.data.model_copy(update={"slots": len(self.slots)})

    def order(self) -> PlayOrder:
        """The order in which the clips are played."""
        if self.train and self.data.loop:
            return LoopOrder(self.clips, self.data.slots)
        if self.train and any(clip.item and clip.item.in_order for clip in self.clips):
            return ListedOrder(self.clips)
        if self.train and self.data.balance:
            return BalancedOrder(self.clips, self.seed)
        if self.train and exceed_cache(self.clips, self.data):
            return ShardOrder(self.clips, self.seed, self.data.shard_cache_size)
        return ShuffledOrder(self.clips, self.seed, endless=self.train)


class Chunk(NamedTuple):
    """`frames` successive frames of entry `clip` of the play order, after the first `before` ones.

    `label`: of all of them, or an array with one for each. `colours`: by which the first stage is to jitter them.
    """

    clip: int
    label: ChunkLabel
    before: int
    frames: int
    colours: Colours = UNCHANGED


class ClipPlayer:
    """Plays slots of one stream."""

    def __init__(
        self,
        job: Job,
        report_error: ReportError,
        decode_lock: AbstractContextManager[None] | None = None,
        alive: Callable[[], None] = lambda: None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare to play.

        Args:
            report_error: called with the kind and the reason of each playback error: see `PlaybackErrors.add`.
            decode_lock: held while anything is decoded; None for no lock.
            alive: called from time to time while many frames are skipped, or read from the cache.
            notify: called with what the user should know about the cache.
        """
        self._job, self._data, self._report_error = job, job.data, report_error
        self._decode_lock, self._alive = decode_lock or nullcontext(), alive
        self._cache = None if job.cache is None else FrameCache(job.cache.open(), job.data, notify, alive)
        self._order = job.order()
        self._undecodable = set(job.undecodable)
        self._files = len({clip.path for clip in job.clips})
        self._reasons: list[str] = []

    def chunks(
        self, entry: int, done: int, room: Room, begin: Callable[[Path], None] = lambda _: None
    ) -> Iterator[Chunk]:
        """Play a slot, starting after the first `done` frames of `entry`. Each chunk is written into `room()`.

        `begin` is called with each file before it is opened.

        Raises:
            DataError: none of the clips can be decoded.
        """
        empty = 0  # entries without a frame, one after another
        for number in count(entry, self._data.slots):
            clip = self._order.entry(number)
            if clip is None:
                return
            empty += 1
            if clip.path in self._undecodable:
                self._report_error("skipped", "")
            else:
                begin(clip.path)
                for chunk in self._play(number, clip, done, room):
                    empty = 0
                    yield chunk
            done = 0
            nothing = len(self._undecodable) == self._files or empty > _MOST_EMPTY * len(self._job.clips)
            if self._order.endless and nothing:
                reasons = "; ".join(self._reasons) or "each of them crashed the process that decoded it"
                raise DataError(f"none of the {self._files} clips can be decoded: {reasons}")

    def _play(self, number: int, clip: Clip, done: int, room: Room) -> Iterator[Chunk]:
        """Play one entry without its first `done` frames."""
        random = np.random.default_rng([self._job.seed, 1, number])
        spans, damage = self._spans(number, clip, random), Damage()
        first = spans[0][0] + (clip.first or 0)
        source = JoinedPictures(self._source(clip, *span, damage) for span in after(spans, done))
        writer, played = ClipWriter(partial(self._augment, random=random), source), done
        while written := writer.write(room()):
            label = label_at(clip.label, partial(numbers, spans, played, written))
            if writer.mirrored and self._data.flip_targets:
                label = mirrored(label, self._data.flip_targets)
            yield Chunk(number, label, played, written, writer.colours)
            played += written
        if played and damage.count:
            self._report_error("damaged", f"{clip.path}: {damage}")
        failure = source.failure or ("" if played else f"{clip.path}: it has no frames from number {first} on")
        if failure:
            self._report_error("broken" if played else "skipped", failure)
            self._reasons = [*self._reasons, failure][:3]
        if not played and self._is_undecodable(clip):
            self._undecodable.add(clip.path)
        elif 0 < played <= self._job.mismatch:
            self._report_error("short", "")

    def _is_undecodable(self, clip: Clip) -> bool:
        """Whether not even the first frame can be decoded; else the file only ended before the frames to be played."""
        with self._decode_lock:
            try:
                return next(self._read(replace(clip, first=None), 0, 1, Damage()), None) is None
            except DataError as error:
                return not isinstance(error.__cause__, OSError)  # what cannot be read now may be readable later

    def _spans(self, number: int, clip: Clip, random: np.random.Generator) -> list[Span]:
        """The parts of the clip that the entry plays."""
        train, window, count = self._order.endless, self._data.window, self._data.snippets
        if window is None or not (train or count > 1):
            return [(self._order.first(number), None)]
        if count > 1:
            return snippets(clip.frames, window, count, random if train else None)
        return [(int(random.integers(0, max(0, clip.frames - window) + 1)), window)]

    def _source(self, clip: Clip, skip: int, limit: int | None, damage: Damage) -> PictureSource:
        """The clip's pictures without the first `skip`, at most `limit`: kept ones, or decoded and maybe kept now."""
        if self._cache is None:
            return self._decoded(clip, skip, limit, damage)
        stored = self._cache.find(clip)
        if stored is None and skip == 0 and limit is None:
            return RecordedPictures(self._decoded(clip, 0, None, damage), damage, clip, self._cache)
        if stored is None and clip.frames * self._data.stride <= _SHORT and self._cache.key_to_keep(clip):
            stored = self._recorded(clip, self._cache)
        return self._decoded(clip, skip, limit, damage) if stored is None else self._cached(stored, skip, limit)

    def _recorded(self, clip: Clip, cache: FrameCache) -> StoredFrames | None:
        """Decode a short clip from its beginning to its end, and keep it. None if it cannot be kept."""
        damage, taken = Damage(), 0
        source = RecordedPictures(self._decoded(clip, 0, None, damage), damage, clip, cache)
        while taken <= _SHORT and (more := len(source.take(_CHUNK))):
            taken += more
            self._alive()
        source.end(whole=False)  # if it is longer than its container says
        return cache.find(clip)

    def _cached(self, stored: StoredFrames, skip: int, limit: int | None) -> CachedPictures:
        return CachedPictures(stored, skip, limit, self._data.pixel_type)

    def _decoded(self, clip: Clip, skip: int, limit: int | None, damage: Damage) -> DecodedPictures:
        return DecodedPictures(self._read(clip, skip, limit, damage), self._decode_lock)

    def _read(self, clip: Clip, skip: int, limit: int | None, damage: Damage) -> Frames:
        return decode_clip(clip, self._data, skip, limit, damage, self._alive)

    def _augment(self, shape: Sequence[int], random: np.random.Generator) -> Augment:
        """The augmentation of one entry of the play order: fixed by the seed and the entry's number."""
        return draw(shape, self._data, random) if self._order.endless else centre(shape, self._data.size)
