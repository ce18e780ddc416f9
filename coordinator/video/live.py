"""Live sources: cameras, network streams, devices; anything that FFmpeg opens. They do not wait for the pipeline.

    a thread a source   opens, decodes, resizes; keeps the newest frame only; opens anew, ever later, what has ended
    fill                waits until every source that is alive has a frame that it has not given yet

Slot s plays source s mod n. Where the pipeline is slower, older frames are dropped and counted; where it is faster, it
waits. The picture of a source that is silent stands still until it comes back, as a new clip; while none of them gives
anything, `fill` waits for as long as its patience lasts.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from numpy.typing import NDArray

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.augment import Augment, draw
from coordinator.video.decoding.media_info import opened, reason, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.scaler import Scaler
from coordinator.video.stream import PlaybackErrors

_SLICE = 0.2  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0  # seconds before a source is opened anew, doubled each time
_EXIT_PATIENCE = (
    1.0  # seconds that close waits for the threads; one inside a driver may take longer, and ends on its own
)


class Live:
    """Plays live sources into batches. A Stream, for training only."""

    def __init__(
        self,
        data: Data,
        seed: int,
        patience: float = 60.0,
        meanwhile: Callable[[], None] = lambda: None,
        start: Sequence[tuple[int, int]] | None = None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begins to open the sources.

        Args:
            patience: seconds that `fill` waits while no source gives a frame, before it gives up.
            meanwhile: runs now and then while it waits, and may raise.
            start: the `places` of an earlier stream: clips get ids that it has not used yet.
            hurried: whether nothing is to be waited for any more, as the run is to end.
        """
        self.errors = PlaybackErrors()
        self._patience, self._meanwhile, self._hurried = patience, meanwhile, hurried
        self._news = threading.Condition()
        self._sources = [_Source(name, data, self.errors, self._news) for name in data.sources]
        rounds = 1 + max(clip for clip, _ in start) // data.slots if start else 0
        self._slots = [_Slot(slot, rounds, data, seed) for slot in range(data.slots)]

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
        """Write the newest frame of every slot's source: uint8 [slots, channels, size, size]; ids and labels [slots].

        Rows of a source that is silent keep its last picture; before its first, they are black.

        Raises:
            DataError: for `patience` seconds no source gave a frame.
        """
        self._wait()
        for source in self._sources:
            if dropped := source.take():
                self.errors.add("dropped", times=dropped)
        for row, slot in enumerate(self._slots):
            frames[row] = slot.play(self._sources[row % len(self._sources)])
            clips[row], labels[row] = slot.place[0], 0
        return True

    def places(self) -> list[tuple[int, int]]:
        """Of each slot its clip id, and the frames of it that were handed out."""
        return [slot.place for slot in self._slots]

    def close(self) -> None:
        """Stop decoding."""
        for source in self._sources:
            source.stop.set()
        end = time.monotonic() + _EXIT_PATIENCE
        for source in self._sources:
            source.thread.join(max(0.0, end - time.monotonic()))

    def _wait(self) -> None:
        """Until every source that is alive has something new, and at least one has."""
        end = time.monotonic() + self._patience
        while not self._hurried():
            with self._news:
                fresh = [source.fresh for source in self._sources]
                if any(fresh) and not any(s.alive and not s.fresh for s in self._sources):
                    return
                if time.monotonic() > end:
                    if any(fresh):
                        return
                    raise self._silence()
                self._news.wait(_SLICE)
            self._meanwhile()

    def _silence(self) -> DataError:
        told = "; ".join(f"{source.shown}: {source.told}" for source in self._sources)
        return DataError(f"no source has given a frame for {self._patience:g} s: {told}. Are they on, and reachable?")


def without_secrets(source: str) -> str:
    """A source's address without user, password and whatever else looks like one."""
    return re.sub(r"([?&][^=&]*(?:pass|pwd|token|key|secret|user|auth)[^=&]*=)[^&]*", r"\1…", _USER.sub("//…@", source))


_USER = re.compile(r"//[^/?#]*@")


class _Source:
    """One source and its thread. What the thread writes is read under the condition `news`."""

    def __init__(self, name: str, data: Data, errors: PlaybackErrors, news: threading.Condition) -> None:
        self.shown = without_secrets(name)
        self.trouble = "nothing has come yet"
        self.taken: NDArray[np.uint8] | None = None  # what fill plays: [1, channels, height, width]
        self.taken_from = 0
        self.stop = threading.Event()
        self._name, self._data, self._errors, self._news = name, data, errors, news
        self._damage = Damage()
        self._newest: NDArray[np.uint8] | None = None
        self._count = self._count_taken = 0
        self._connection = 0
        self._alive_until = float("inf")  # the first attempt may take what it takes
        self.thread = threading.Thread(target=self._run, name=f"source {self.shown}", daemon=True)
        self.thread.start()

    @property
    def fresh(self) -> bool:
        """Whether there is a frame that was not taken yet."""
        return self._count > self._count_taken

    @property
    def told(self) -> str:
        """Why nothing comes."""
        return f"{self.trouble or 'silent'}{f' ({self._damage})' if self._damage.count else ''}"

    @property
    def alive(self) -> bool:
        """Whether the next frame is to be expected soon."""
        return time.monotonic() < self._alive_until

    def take(self) -> int:
        """Make the newest frame the one that is played. Returns how many were passed over."""
        with self._news:
            passed = max(0, self._count - self._count_taken - 1)
            self.taken, self.taken_from, self._count_taken = self._newest, self._connection, self._count
            return passed

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self.stop.is_set():
            before = self._count
            try:
                for frame in self._frames():
                    self._publish(frame)
                trouble = "it has ended"
            except (av.FFmpegError, OSError, ValueError) as error:
                trouble = reason(error)
            self._lose(trouble)
            pause = _FIRST_PAUSE if self._count > before else min(2 * pause, _LONGEST_PAUSE)
            self.stop.wait(pause)

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        """[1, channels, height, width] uint8, from opening the source until it ends."""
        data, timeout = self._data, self._data.source_timeout
        with opened(self._name, data.source_format, data.source_options, (timeout, timeout)) as container:
            scaler, self._damage = None, Damage()
            for frame in decoded(container, video_stream(container), self._damage):
                scaler = scaler or Scaler(frame, data.short_side, data.channels)
                yield np.array(scaler(frame))[None]
                if self.stop.is_set():
                    return

    def _publish(self, frame: NDArray[np.uint8]) -> None:
        with self._news:
            if self._connection == 0 or self.trouble:
                self._connection += 1
                self.trouble = ""
                if self._connection > 1:
                    self._errors.add("reconnects")
            self._newest = frame
            self._count += 1
            self._alive_until = time.monotonic() + self._data.source_timeout
            self._news.notify_all()

    def _lose(self, trouble: str) -> None:
        with self._news:
            self.trouble, self._alive_until = trouble, 0.0
            self._news.notify_all()
        if not self.stop.is_set():
            self._errors.note(f"{self.shown}: {trouble}")


class _Slot:
    """One slot's place: each connection of its source is a clip, with an augmentation of its own."""

    def __init__(self, slot: int, rounds: int, data: Data, seed: int) -> None:
        self.place = slot + rounds * data.slots, 0
        self._data, self._seed = data, seed
        self._connection = 0
        self._augment: Augment | None = None

    def play(self, source: _Source) -> NDArray[np.uint8]:
        """[channels, size, size] of the source's newest frame; zeros before its first."""
        clip, played = self.place
        if source.taken is None:
            self.place = clip, played + 1
            return np.zeros((self._data.channels, self._data.size, self._data.size), np.uint8)
        if source.taken_from != self._connection:
            if played:
                clip, played = clip + self._data.slots, 0
            self._connection = source.taken_from
            self._augment = draw(source.taken.shape[-2:], self._data, np.random.default_rng([self._seed, 1, clip]))
        self.place = clip, played + 1
        assert self._augment is not None
        return self._augment.view(source.taken)[0]
