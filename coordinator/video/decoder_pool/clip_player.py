"""What a slot plays: its entries of the play list one after another, decoded, and how they become pixels.

Nothing here knows of processes or clocks: a player gives the same frames wherever and whenever it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.augment import Augment, centre, draw
from coordinator.video.decoding.clip_writer import ClipWriter, Frames
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import decode, frame_files
from coordinator.video.files.clips import Clip
from coordinator.video.files.play_order import LoopOrder, PlayOrder, ShuffledOrder

Tell = Callable[[str, str], None]  # a kind of mishap, and its reason
Room = Callable[[], NDArray[np.uint8]]  # where the next chunk belongs: [chunk, channels, size, size]


@dataclass
class Job:
    """What is to be played.

    Attributes:
        train: shuffled, augmented and endless; else each clip once.
        mismatch: of the bottom stage, in frames; clips no longer than it are counted as short.
        hopeless: files that gave no frame: not tried again.
    """

    clips: list[Clip]
    data: Data
    seed: int
    train: bool
    mismatch: int = 0
    hopeless: set[Path] = field(default_factory=set)

    def order(self) -> PlayOrder:
        """Which clip is which entry."""
        if self.train and self.data.loop:
            return LoopOrder(self.clips, self.data.slots)
        return ShuffledOrder(self.clips, self.seed, endless=self.train)


class Chunk(NamedTuple):
    """So many successive frames of a clip, and how many of it came before."""

    clip: int
    label: int
    before: int
    frames: int


class ClipPlayer:
    """Plays slots of one stream."""

    def __init__(
        self,
        job: Job,
        tell: Tell,
        baton: AbstractContextManager[None] | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """`tell` hears of each mishap; `baton` is held while anything is decoded; `alive`: see `decode`."""
        self._job, self._data, self._tell = job, job.data, tell
        self._baton, self._alive = baton or nullcontext(), alive
        self._list = job.order()
        self._hopeless = set(job.hopeless)
        self._files = len({clip.path for clip in job.clips})
        self._reasons: list[str] = []

    def chunks(
        self, entry: int, done: int, room: Room, begin: Callable[[Path], None] = lambda _: None
    ) -> Iterator[Chunk]:
        """All that a slot plays, from behind the first `done` frames of an entry on, written to where there is room.

        `begin` hears of each file before it is touched.

        Raises DataError: not one of the clips can be decoded.
        """
        for number in count(entry, self._data.slots):
            clip = self._list.entry(number)
            if clip is None:
                return
            if clip.path in self._hopeless:
                self._tell("skipped", "")
            else:
                begin(clip.path)
                yield from self._play(number, clip, done, room)
            done = 0
            if self._list.endless and len(self._hopeless) == self._files:
                reasons = "; ".join(self._reasons) or "each of them ended the process that decoded it"
                raise DataError(f"not one of the {self._files} clips can be decoded: {reasons}")

    def _play(self, number: int, clip: Clip, done: int, room: Room) -> Iterator[Chunk]:
        """One entry, its first `done` frames left out."""
        random = np.random.default_rng([self._job.seed, 1, number])
        first, length = self._span(number, clip, random)
        damage = Damage()
        frames = self._read(clip, first + done, None if length is None else length - done, damage)
        canvas, played = ClipWriter(partial(self._augment, random=random), self._baton), done
        while written := canvas.write(frames, room()):
            yield Chunk(number, clip.label, played, written)
            played += written
        if played and damage.count:
            self._tell("damaged", f"{clip.path}: {damage}")
        if not played:
            canvas.failure = canvas.failure or f"{clip.path}: it has no frames from number {first} on"
        if canvas.failure:
            self._tell("broken" if played else "skipped", canvas.failure)
            self._reasons = [*self._reasons, canvas.failure][:3]
        if not played and self._gives_nothing(clip):
            self._hopeless.add(clip.path)
        elif 0 < played <= self._job.mismatch:
            self._tell("short", "")

    def _gives_nothing(self, clip: Clip) -> bool:
        """Whether not even the first frame can be had: else the file only ended before the frames that were wanted."""
        with self._baton:
            try:
                return next(self._read(clip, 0, 1, Damage()), None) is None
            except DataError:
                return True

    def _span(self, number: int, clip: Clip, random: np.random.Generator) -> tuple[int, int | None]:
        """The frame with which the entry begins, and how many it plays; None: all there are."""
        first, window = self._list.first(number), self._data.window
        if window is None or not self._list.endless:
            return first, None
        return int(random.integers(0, max(0, clip.frames - window) + 1)), window

    def _read(self, clip: Clip, skip: int, limit: int | None, damage: Damage) -> Frames:
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
            damage=damage,
            alive=self._alive,
        )

    def _augment(self, shape: Sequence[int], random: np.random.Generator) -> Augment:
        """The choices for one entry of the play list: fixed by the seed and its number."""
        return draw(shape, self._data, random) if self._list.endless else centre(shape, self._data.size)
