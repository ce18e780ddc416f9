"""Takes checkpoints while the training continues, and warns when one cannot be saved."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import SidewaysError
from common.messages.stage_calls import WRITING, StageCalls
from common.messages.stage_rpc import Pending, Stages
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.store import Checkpoints

_POLL = 0.02  # seconds


class BackgroundSaver:
    """One checkpoint at a time: all stages copy their state between two ticks, then write in the background.

    Attributes:
        failed: number of checkpoints that could not be saved, or were skipped because one was still being written.
        kept: number of checkpoints saved.
        tick: of the newest saved checkpoint; None before the first.
        taken: when that checkpoint was taken, in seconds since 1970; before the first, when this object was made.
        seconds: time that writing it took.
        bytes: its size.
    """

    def __init__(self, checkpoints: Checkpoints, stages: Stages, warn: Callable[[str], None]) -> None:
        self.failed = self.kept = self.bytes = 0
        self.tick: int | None = None
        self.taken, self.seconds = time.time(), 0.0
        self.checkpoints, self._stages, self._warn = checkpoints, stages, warn
        self._saving: _Saving | None = None
        self._regroup = False  # a checkpoint has failed, perhaps since a stage was too late for the others

    def save(self, position: Position) -> None:
        """Take a checkpoint now, while no stage runs. Returns once all stages have copied their state.

        A checkpoint that cannot be taken is counted in `failed`, with a warning. Raises ConfigError or PeerError if a
        stage fails to copy its state.
        """
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
            self._record_failure(position.tick, str(error))
            return
        self._stages.call_all(StageCalls.checkpoint, part.resolve(), position.tick, self._regroup)
        self._regroup = False
        pending = self._stages.begin(StageCalls.checkpoint_written, WRITING)
        self._saving = _Saving(self.checkpoints, part, position, pending)

    def poll(self) -> None:
        """Check whether the checkpoint being written is done, and if so update the attributes."""
        saving = self._saving
        if saving is not None and not saving.running:
            if saving.error is not None:
                self._regroup = True
                if not saving.timed_out:
                    self._record_failure(saving.tick, saving.error)
            else:
                self.failed -= saving.timed_out  # `finish` had counted it as failed
                self.kept += 1
                self.tick = saving.tick
                self.taken, self.seconds, self.bytes = saving.taken, saving.seconds, saving.bytes
            self._saving = None

    def finish(self, limit: Callable[[], float], on_wait: Callable[[], None]) -> None:
        """Wait until the last checkpoint is written, at most `limit()` seconds, calling `on_wait` while waiting.

        `limit` is evaluated again at every poll, so the limit may change during the wait.
        """
        start = time.monotonic()
        while self._saving is not None and not self._saving.timed_out and time.monotonic() - start < limit():
            on_wait()
            time.sleep(_POLL)
            self.poll()
        if self._saving is not None and not self._saving.timed_out:
            self._saving.timed_out = True  # so that no later call waits for it again
            self._record_failure(self._saving.tick, f"writing it took longer than {limit():g} s")

    def discard(self) -> None:
        """Do not commit the checkpoint that is being written."""
        if self._saving is not None:
            self._saving.discard()

    def record_score(self, tick: int, score: float) -> None:
        """Store an evaluation's score with the checkpoint of this tick, if there is one. Warns on failure.

        Call it after `finish`: the checkpoint must be committed by then.
        """
        try:
            self.checkpoints.set_score(tick, score)
        except (SidewaysError, OSError) as error:
            self._warn(f"the score of the checkpoint of tick {tick} could not be stored: {error}")

    def _record_failure(self, tick: int, reason: str) -> None:
        self.failed += 1
        self._warn(f"the checkpoint of tick {tick} could not be saved: {reason}. Earlier checkpoints are not affected")


class _Saving:
    """A checkpoint that the stages are writing; a thread waits for them and commits it.

    Attributes:
        taken: when it was taken, in seconds since 1970.
        seconds, bytes: time that writing took, and size; 0 until it is committed.
        error: why it could not be saved; None if it was, or is still being written.
        timed_out: `finish` has given up on it and counted it as failed.
    """

    def __init__(self, checkpoints: Checkpoints, part: Path, position: Position, pending: Pending[None]) -> None:
        self.tick, self.taken = position.tick, time.time()
        self.seconds, self.bytes = 0.0, 0
        self.error: str | None = None
        self.timed_out = False
        self._discarded, self._committing = False, threading.Lock()
        self._thread = threading.Thread(
            target=self._follow, args=(checkpoints, part, position, pending), name="checkpoint", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still being written."""
        return self._thread.is_alive()

    def discard(self) -> None:
        """Prevent the commit; no effect if it has already happened."""
        with self._committing:
            self._discarded = True

    def _follow(self, checkpoints: Checkpoints, part: Path, position: Position, pending: Pending[None]) -> None:
        start = time.monotonic()
        try:
            pending.answers()
            with self._committing:
                if self._discarded:
                    raise SidewaysError("the run rolls back to an earlier one")
                self.bytes = checkpoints.commit(part, position)
            self.seconds = time.monotonic() - start
        except Exception as error:  # any failure must be reported, and costs only this checkpoint
            self.error = str(error) or type(error).__name__
            checkpoints.abandon(part)
