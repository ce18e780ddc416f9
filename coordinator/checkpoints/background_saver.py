"""Takes checkpoints while the training goes on, and says loudly when one cannot be kept."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import SidewaysError
from common.messages.stage_calls import WRITING, StageCalls
from common.messages.stage_rpc import Pending, Stages
from coordinator.checkpoints.store import Checkpoints, Position

_POLL = 0.02  # seconds


class BackgroundSaver:
    """One checkpoint at a time: all stages copy their state between two ticks, then write in the background.

    Attributes:
        failed: checkpoints that could not be kept, or for which there was no time.
        kept: how many could.
        tick: of the newest of them; before the first, None.
        taken: when that was, by the clock; before the first, when this began.
        seconds, bytes: what it took to write it, and its size.
    """

    def __init__(self, checkpoints: Checkpoints, stages: Stages, warn: Callable[[str], None]) -> None:
        self.failed = self.kept = self.bytes = 0
        self.tick: int | None = None
        self.taken, self.seconds = time.time(), 0.0
        self.checkpoints, self._stages, self._warn = checkpoints, stages, warn
        self._saving: _Saving | None = None

    def save(self, position: Position) -> None:
        """Take one now, while no stage runs. Returns when all have copied what they need."""
        if self._saving is not None and self._saving.running:
            self.failed += 1
            self._warn(
                f"tick {position.tick}: the checkpoint of tick {self._saving.tick} is still being written, so none is "
                f"taken now: raise checkpoint.every, or use a faster disk"
            )
            return
        self.poll()
        try:
            part = self.checkpoints.begin(position.tick)
        except OSError as error:
            self._complain(position.tick, str(error))
            return
        self._stages.ask_all(StageCalls.checkpoint, part.resolve(), position.tick)
        pending = self._stages.begin(StageCalls.checkpoint_written, WRITING)
        self._saving = _Saving(self.checkpoints, part, position, pending)

    def poll(self) -> None:
        """Take notice of one that has ended."""
        saving = self._saving
        if saving is not None and not saving.running:
            if saving.error is not None:
                if not saving.late:
                    self._complain(saving.tick, saving.error)
            else:
                self.failed -= saving.late  # after all
                self.kept += 1
                self.tick = saving.tick
                self.taken, self.seconds, self.bytes = saving.taken, saving.seconds, saving.bytes
            self._saving = None

    def finish(self, limit: Callable[[], float], meanwhile: Callable[[], None]) -> None:
        """Wait for the last one, for `limit` seconds, which may change meanwhile."""
        start = time.monotonic()
        while self._saving is not None and not self._saving.late and time.monotonic() - start < limit():
            meanwhile()
            time.sleep(_POLL)
            self.poll()
        if self._saving is not None and not self._saving.late:
            self._saving.late = True  # it was waited for once
            self._complain(self._saving.tick, f"writing it took longer than {limit():g} s")

    def discard(self) -> None:
        """The one that is being written is not wanted any more."""
        if self._saving is not None:
            self._saving.discard()

    def note_score(self, tick: int, score: float) -> None:
        """An evaluation of the checkpoint of this tick, which is on the disk by now, or is not at all."""
        try:
            self.checkpoints.set_score(tick, score)
        except (SidewaysError, OSError) as error:
            self._warn(f"the score of the checkpoint of tick {tick} could not be noted: {error}")

    def _complain(self, tick: int, reason: str) -> None:
        self.failed += 1
        self._warn(f"the checkpoint of tick {tick} could not be kept: {reason}. Only it is lost")


class _Saving:
    """A checkpoint that the stages are writing, followed to its end in a thread."""

    def __init__(self, checkpoints: Checkpoints, part: Path, position: Position, pending: Pending[None]) -> None:
        self.tick, self.taken = position.tick, time.time()
        self.seconds, self.bytes = 0.0, 0
        self.error: str | None = None
        self.late = False  # counted as one that could not be kept
        self._unwanted, self._committing = False, threading.Lock()
        self._thread = threading.Thread(
            target=self._follow, args=(checkpoints, part, position, pending), name="checkpoint", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still being written."""
        return self._thread.is_alive()

    def discard(self) -> None:
        """From now on it is not committed; it may have been before."""
        with self._committing:
            self._unwanted = True

    def _follow(self, checkpoints: Checkpoints, part: Path, position: Position, pending: Pending[None]) -> None:
        start = time.monotonic()
        try:
            pending.answers()
            with self._committing:
                if self._unwanted:
                    raise SidewaysError("the run goes back to an earlier one")
                self.bytes = checkpoints.commit(part, position)
            self.seconds = time.monotonic() - start
        except Exception as error:  # whatever it is, it must be told, and only the checkpoint is lost
            self.error = str(error) or type(error).__name__
            checkpoints.abandon(part)
