"""Live sources: cameras, network streams, devices; anything that FFmpeg opens. They do not wait for the pipeline.

    a thread per source   opens, decodes, resizes; keeps only the newest frame; reopens an ended source with backoff
    fill                  waits until every source that is alive has a new frame

Slot s plays source s mod n. If the pipeline is slower than a source, older frames are dropped and counted; if it is
faster, it waits. A silent source repeats its last frame until it reconnects, as a new clip. While no source delivers
frames, `fill` waits up to `patience` seconds.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from common.config.secrets import without_secrets
from common.config.settings import Data
from common.errors import DataError
from common.rule.label_form import ONE_CLASS
from coordinator.video.batch import Batch
from coordinator.video.decoding.augment import Augment, draw
from coordinator.video.decoding.opening import open_media, reason, video_stream
from coordinator.video.decoding.packets import Damage, decoded
from coordinator.video.decoding.scaler import Scaler
from coordinator.video.stream import PlaybackErrors

Pixels = NDArray[Any]  # uint8, or with data.bits = 16 uint16
_POLL = 0.2  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 10.0  # seconds before a source is reopened, doubled after each failed attempt
_EXIT_TIMEOUT = 1.0  # seconds that `close` waits for the threads; one blocked in a driver may end later


class Live:
    """Plays live sources into batches. A `Stream`, for training only."""

    def __init__(
        self,
        data: Data,
        seed: int,
        patience: float = 60.0,
        meanwhile: Callable[[], None] = lambda: None,
        start: Sequence[tuple[int, int]] | None = None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start a thread per source, which opens it.

        Args:
            patience: seconds that `fill` waits while no source delivers a frame, before it raises.
            meanwhile: called about every 0.2 s while `fill` waits; may raise.
            start: the `places` of an earlier stream; clips get ids that it has not used.
            hurried: returns whether the run is about to end, so that `fill` does not wait.
        """
        self.errors, self.form = PlaybackErrors(), ONE_CLASS
        self._patience, self._meanwhile, self._hurried = patience, meanwhile, hurried
        self._frame_ready = threading.Condition()
        self._sources = [_Source(name, data, self.errors, self._frame_ready) for name in data.sources]
        rounds = 1 + max(clip for clip, _ in start) // data.slots if start else 0
        self._slots = [_Slot(slot, rounds, data, seed) for slot in range(data.slots)]

    def fill(self, batch: Batch) -> bool:
        """Write the newest frame of every slot's source.

        Rows of a silent source, of which the user is warned, repeat its last frame; before its first they are black.

        Args:
            batch: its labels become 0.

        Returns:
            True: live sources have no end.

        Raises:
            DataError: no source has delivered a frame for `patience` seconds.
        """
        self._wait()
        for source in self._sources:
            if dropped := source.take():
                self.errors.add("dropped", times=dropped)
            if source.error and not source.told and not self._hurried():
                source.told = True
                self.errors.warn(
                    f"{source.shown} delivers no frames ({source.error}): its slots repeat its last picture, or are "
                    f"black if there was none, until it does"
                )
        for row, slot in enumerate(self._slots):
            batch.frames[row] = slot.play(self._sources[row % len(self._sources)])
            batch.clips[row], batch.labels[row] = slot.place[0], 0
        return True

    def places(self) -> list[tuple[int, int]]:
        """Per slot its clip id, and how many frames of that clip were handed out."""
        return [slot.place for slot in self._slots]

    def close(self) -> None:
        """Stop decoding."""
        for source in self._sources:
            source.stop.set()
        end = time.monotonic() + _EXIT_TIMEOUT
        for source in self._sources:
            source.thread.join(max(0.0, end - time.monotonic()))

    def _wait(self) -> None:
        """Wait until at least one source, and every source that is alive, has a new frame."""
        end = time.monotonic() + self._patience
        while not self._hurried():
            with self._frame_ready:
                fresh = [source.fresh for source in self._sources]
                if any(fresh) and not any(s.alive and not s.fresh for s in self._sources):
                    return
                if time.monotonic() > end:
                    if any(fresh):
                        self._give_up_silent()
                        return
                    raise _silence(self._sources, self._patience)
                self._frame_ready.wait(_POLL)
            self._meanwhile()

    def _give_up_silent(self) -> None:
        """Expect nothing from the sources that have no frame, such as one that hangs while it is opened."""
        for source in self._sources:
            if not source.fresh:
                source.expect_nothing()


def newest_frames(name: str, data: Data, patience: float = 60.0) -> Generator[tuple[int, Pixels], None, None]:
    """The frames of a source without end, resized: always the newest of every `data.stride`-th.

    At most `data.fps` a second if that is set.

    Yields:
        The number of the connection, from 1 on, and a frame, [1, channels, height, width].

    Raises:
        DataError: it has not delivered a frame for `patience` seconds.
    """
    ready = threading.Condition()
    source = _Source(name, data, PlaybackErrors(), ready)
    due = time.monotonic()
    try:
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic()) + (1 / data.fps if data.fps else 0)
            with ready:
                if not ready.wait_for(lambda: source.fresh, patience):
                    raise _silence([source], patience)
            source.take()
            assert source.taken is not None
            yield source.taken_from, source.taken
    finally:
        source.stop.set()
        source.thread.join(_EXIT_TIMEOUT)


def _silence(sources: "Sequence[_Source]", patience: float) -> DataError:
    status_text = "; ".join(f"{source.shown}: {source.status_text}" for source in sources)
    return DataError(f"no source has delivered a frame for {patience:g} s: {status_text}. Are they on and reachable?")


class _Source:
    """One source and its thread. What the thread writes is guarded by the condition `frame_ready`."""

    def __init__(self, name: str, data: Data, errors: PlaybackErrors, frame_ready: threading.Condition) -> None:
        self.shown = without_secrets(name)
        self.error = "no frame yet"
        self.told = False  # whether the user knows of it
        self.taken: Pixels | None = None  # the frame that `fill` plays: [1, channels, height, width]
        self.taken_from = 0
        self.stop = threading.Event()
        self._name, self._data, self._errors, self._frame_ready = name, data, errors, frame_ready
        self._damage = Damage()
        self._newest: Pixels | None = None
        self._count = self._count_taken = 0
        self._connection = 0
        self._alive_until = float("inf")  # the first attempt to connect may take any time
        self.thread = threading.Thread(target=self._run, name=f"source {self.shown}", daemon=True)
        self.thread.start()

    @property
    def fresh(self) -> bool:
        """Whether there is a frame that was not played yet."""
        return self._count > self._count_taken

    @property
    def status_text(self) -> str:
        """Why no frames arrive, for a message."""
        return f"{self.error or 'silent'}{f' ({self._damage})' if self._damage.count else ''}"

    @property
    def alive(self) -> bool:
        """Whether the next frame is expected soon."""
        return time.monotonic() < self._alive_until

    def expect_nothing(self) -> None:
        """Do not wait for the next frame, until there is one. Called under the condition."""
        self._alive_until = 0.0

    def take(self) -> int:
        """Make the newest frame the one that is played. Returns how many older ones were dropped since the last."""
        with self._frame_ready:
            dropped = max(0, self._count - self._count_taken - 1) if self._count_taken else 0  # not before the first
            self.taken, self.taken_from, self._count_taken = self._newest, self._connection, self._count
            return dropped

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self.stop.is_set():
            before = self._count
            try:
                for frame in self._frames():
                    self._publish(frame)
                cause = "the stream ended"
            except (av.FFmpegError, OSError, ValueError) as error:
                cause = reason(error)
            self._mark_lost(cause)
            pause = _FIRST_PAUSE if self._count > before else min(2 * pause, _LONGEST_PAUSE)
            self.stop.wait(pause)

    def _frames(self) -> Iterator[Pixels]:
        """Open the source and yield its frames until it ends: [1, channels, height, width]."""
        data, timeout = self._data, self._data.source_timeout
        kind = data.source_format or ("v4l2" if self._name.startswith("/dev/video") else None)
        with open_media(self._name, kind, data.source_options, (timeout, timeout)) as container:
            scaler, self._damage = None, Damage()
            for frame in islice(decoded(container, video_stream(container), self._damage), 0, None, data.stride):
                scaler = scaler or Scaler(frame, data.short_side, data.channels, bits=data.bits)
                yield np.array(scaler(frame))[None]
                if self.stop.is_set():
                    return

    def _publish(self, frame: Pixels) -> None:
        with self._frame_ready:
            if self._connection == 0 or self.error:
                self._connection += 1
                self.error = ""
                if self._connection > 1:
                    self._errors.add("reconnects")
            self._newest = frame
            self._count += 1
            self._alive_until = time.monotonic() + self._data.source_timeout
            self._frame_ready.notify_all()

    def _mark_lost(self, cause: str) -> None:
        with self._frame_ready:
            self.error, self._alive_until = cause, 0.0
            self.told = False
            self._frame_ready.notify_all()
        if not self.stop.is_set():
            self._errors.note(f"{self.shown}: {cause}")


class _Slot:
    """The clip that a slot plays: each connection of its source is a new clip, with its own augmentation."""

    def __init__(self, slot: int, rounds: int, data: Data, seed: int) -> None:
        self.place = slot + rounds * data.slots, 0
        self._data, self._seed = data, seed
        self._connection = 0
        self._augment: Augment | None = None

    def play(self, source: _Source) -> Pixels:
        """The source's newest frame, augmented: [channels, height, width]; zeros before its first."""
        clip, played = self.place
        if source.taken is None:
            self.place = clip, played + 1
            return np.zeros((self._data.channels, *self._data.shape), self._data.pixel_type)
        if source.taken_from != self._connection:
            if played:
                clip, played = clip + self._data.slots, 0
            self._connection = source.taken_from
            self._augment = draw(source.taken.shape[-2:], self._data, np.random.default_rng([self._seed, 1, clip]))
        self.place = clip, played + 1
        assert self._augment is not None
        return self._augment.view(source.taken)[0]
