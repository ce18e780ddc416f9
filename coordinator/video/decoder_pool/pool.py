"""The coordinator's side of a stream's decoder processes: start them, receive from them, replace one that dies.

When a process dies, its replacement resumes each slot after the last chunk received: no frame is lost or repeated.
A process that hangs is replaced as well, since it may only have been stopped. A second hang in a row, or one at a
suspected file, raises DataError, before stage 0 gives up waiting. A process that dies or hangs was decoding for that of
its slots which is least far ahead. A file at which two processes die is skipped from then on.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.decode_lock import DecodeLock, sharing
from coordinator.video.decoder_pool.decoder_process import DecoderProcess
from coordinator.video.decoder_pool.messages import (
    ClipError,
    Ended,
    FileStarted,
    Filled,
    Heartbeat,
    Message,
    Notice,
    SlotStart,
    next_slot,
)
from coordinator.video.decoder_pool.shared_ring import SharedRing
from coordinator.video.stream import Places, PlaybackErrors

_POLL = 0.2  # seconds
_HANG_FRACTION = 0.4  # fraction of `timeout` after which a process counts as hung: two hangs still fit into it
_START_TIMEOUT = 60.0  # seconds that a process may take to start: it has much to import, and the machine may be busy
_REPLACEMENTS = 10  # per stream; more cannot be explained by a few bad files


@dataclass(frozen=True)
class Waiting:
    """How long frames are waited for.

    Attributes:
        timeout: seconds after which the consumer gives up; a decoder process counts as hung well before that.
        meanwhile: called about every 0.2 s; may raise.
    """

    timeout: float = 60.0
    meanwhile: Callable[[], None] = lambda: None


class DecoderPool:
    """The decoder processes of one stream: of n processes, process s mod n decodes for slot s.

    Slots are numbered from 0, also those of a stream that plays only a share of them (`Job.share`).

    There are `data.threads` groups of processes, each sharing one decode lock (see `decode_lock.sharing`), but never
    more processes than slots.
    """

    def __init__(
        self,
        job: Job,
        places: Places,
        on_message: Callable[[Filled | Ended], None],
        errors: PlaybackErrors,
        waiting: Waiting,
    ) -> None:
        """Allocate the shared ring, start the processes and let them fill it.

        Args:
            places: per slot, the play order's entry to start at and how many of its frames to leave out.
            on_message: called with each `Filled` or `Ended` message, while `receive` or `let_decode` runs.
            errors: playback errors are counted here.

        Raises:
            DataError: the shared memory cannot be allocated.
        """
        slots = len(job.slots)
        self.ring = SharedRing(job.of_share, job.in_use)
        self._job, self._on_message, self._errors = job, on_message, errors
        self._limit, self._on_wait = _HANG_FRACTION * waiting.timeout, waiting.meanwhile
        self._decode_until = self.ring.decodable_until(0)  # a tick
        self._replaced, self._waited = 0, time.monotonic()
        self._suspects: set[Path] = set()
        self._files: dict[int, Path] = {}  # by slot: the file being decoded for it
        share = sharing(job.data)
        count = min(job.data.threads * share, slots)
        self._workers = [DecoderProcess(number // share) for number in range(count)]
        self._place(places, 0)
        for worker in self._workers:
            worker.start(job, self.ring, self._decode_until)

    def rewind(self, places: Places, tick: int) -> None:
        """Decode from these places and this tick on, with the same processes. Every slot must have ended."""
        self._place(places, tick)
        self._replaced = 0
        self._files.clear()
        for worker in self._workers:
            with suppress(OSError):  # it has died: noticed at the next receive, and replaced
                worker.connection.send(list(worker.starts.values()))

    def _place(self, places: Places, tick: int) -> None:
        starts = [SlotStart(slot, tick, *place) for slot, place in enumerate(places)]
        for number, worker in enumerate(self._workers):
            worker.starts = {start.slot: start for start in starts[number :: len(self._workers)]}

    def let_decode(self, until: int) -> None:
        """Let frames up to tick `until` be decoded, which overwrites those of one turn of the ring earlier."""
        if until == self._decode_until:
            return
        self._decode_until = until
        for worker in self._workers:
            try:
                self._drain(worker)  # a process blocked on a full pipe would not read what is sent to it
                worker.connection.send(until)
            except (EOFError, OSError):
                self._replace(worker)

    def receive(self, slot: int) -> None:
        """Receive one message from the slot's process, or replace a process that has died or hangs.

        Raises:
            DataError: a process hung twice, or processes keep dying.
        """
        worker = self._workers[slot % len(self._workers)]
        if time.monotonic() > self._waited + _POLL:  # also if messages come all the time, but no frames
            self._call_on_wait()
        try:
            if self._wait_for_message(worker):
                self._handle(worker, worker.connection.recv())
            else:
                self._replace_hung(self._decoding(worker))
        except (EOFError, OSError):
            self._replace(worker)

    def _call_on_wait(self) -> None:
        self._on_wait()
        self._waited = time.monotonic()

    def _wait_for_message(self, worker: DecoderProcess) -> bool:
        """Wait for a message. False if none came because the process that holds the decode lock hangs."""
        start = time.monotonic()
        while not worker.connection.poll(_POLL):
            self._call_on_wait()
            decoding = self._decoding(worker)
            limit = self._limit if decoding.has_reported else max(2 * self._limit, _START_TIMEOUT)
            if time.monotonic() - max(start, decoding.last_message_time) > limit:
                return False
        return True

    def _replace_hung(self, decoding: DecoderProcess) -> None:
        """Replace a hung process, as its replacement may get through. Raises DataError if the replacement hung too."""
        file = self._busy_with(decoding)
        if decoding.predecessor_hung or file in self._suspects:
            raise DataError(
                f"{file or 'a decoder process'} took longer than {self._limit:g} s to decode, twice: "
                f"is the disk or the stream stuck? Raise network.deadline if that is expected"
            )
        decoding.predecessor_hung = True
        self._replace(decoding)

    def close(self) -> None:
        """Kill the processes, which hold no state worth saving, and close the ring."""
        for worker in self._workers:
            worker.kill()
        if self._job.cache is not None:
            with suppress(OSError):
                self._job.cache.tidy()
        self.ring.close()

    def _handle(self, worker: DecoderProcess, message: Message) -> None:
        worker.has_reported, worker.last_message_time = True, time.monotonic()
        if isinstance(message, FileStarted):
            self._clear_suspect(message.slot)
            self._files[message.slot] = message.path
        elif isinstance(message, ClipError):
            self._errors.add(message.kind, message.reason)
        elif isinstance(message, Notice):
            self._errors.warn(message.text)
        elif not isinstance(message, Heartbeat):
            assert message.slot == next_slot(worker.ticks, self._decode_until), (
                "a process decodes for its slots in turn"
            )
            worker.predecessor_hung = False
            worker.note(message)
            if isinstance(message, Filled):
                self._clear_suspect(message.slot)
            self._on_message(message)

    def _replace(self, worker: DecoderProcess) -> None:
        """Start a new process where the messages of the old one end.

        Raises:
            DataError: more than `_REPLACEMENTS` processes of this stream were replaced.
        """
        with suppress(EOFError, OSError):
            self._drain(worker)  # messages sent before it died still count
        how, file = worker.kill(), self._busy_with(worker)
        self._replaced += file not in self._job.undecodable  # else a process that was started before that was known
        if self._replaced > _REPLACEMENTS:
            raise DataError(
                f"a decoder process ended with {how}, after {_REPLACEMENTS} others of this stream had ended: "
                f"is memory short, or the disk failing?"
            )
        if file is not None and file not in self._job.undecodable:
            self._suspect(file, how)
        for slot in worker.starts:
            self._files.pop(slot, None)
        worker.start(self._job, self.ring, self._decode_until)

    def _suspect(self, file: Path, how: str) -> None:
        """A process that decoded the file has died. Of the second one the file is the reason, and it is skipped."""
        if file in self._suspects:
            self._errors.add("skipped", f"{file}: two processes that decoded it died, the last by {how}")
            self._job.undecodable.add(file)
        self._suspects.add(file)

    def _clear_suspect(self, slot: int) -> None:
        """The slot has played some or all of its current file, so that file is no longer a suspect."""
        if slot in self._files:
            self._suspects.discard(self._files[slot])

    def _decoding(self, worker: DecoderProcess) -> DecoderProcess:
        """The holder of `worker`'s decode lock, after receiving its messages; `worker` if nobody holds the lock."""
        process = DecodeLock(self.ring.file, worker.decode_lock).holder()
        decoding = next((other for other in self._workers if other.process.pid == process), worker)
        if decoding is not worker:
            with suppress(EOFError, OSError):  # it has died: handled when its own frames are due
                self._drain(decoding)
        return decoding

    def _busy_with(self, worker: DecoderProcess) -> Path | None:
        """The file that the process is decoding."""
        slot = next_slot(worker.ticks, self._decode_until)
        return None if slot is None else self._files.get(slot)

    def _drain(self, worker: DecoderProcess) -> None:
        while worker.connection.poll():
            self._handle(worker, worker.connection.recv())
