"""The decoding processes of a stream, from the coordinator's side: started, listened to, and replaced when one dies.

When a process dies, a new one goes on for its slots behind the last chunks that came: nothing is lost or played twice.
So too when one hangs: it may have been stopped. One that hangs twice at a file is told before stage 0 gives up.
It was decoding for the first of the halves that it had still to fill. A file that two processes die of is left out.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from common.errors import DataError
from common.processes.lifecycle import ALLOCATOR
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.decode_lock import DecodeLock, sharing
from coordinator.video.decoder_pool.messages import Begun, Busy, ClipError, Ended, Filled, Grant, News
from coordinator.video.decoder_pool.shared_ring import HALVES, SharedRing
from coordinator.video.stream import Places, PlaybackErrors

_SLICE = 0.2  # seconds
_DYING = 2.0  # seconds that a killed process may take to end
_HANGING = 0.4  # of the time that frames may take altogether
_STARTING = 60.0  # seconds that a process may take to start: it imports much, and the machine may be busy
_REPLACEMENTS = 10  # of one stream; more, and something else is wrong than a few bad files


class DecoderPool:
    """Processes in pairs that take turns, `data.threads` pairs; of n processes number s mod n plays slot s."""

    def __init__(
        self,
        job: Job,
        places: Places,
        hear: Callable[[Filled | Ended], None],
        errors: PlaybackErrors,
        patience: float,
        meanwhile: Callable[[], None],
    ) -> None:
        """`hear` gets what is filled or ended while `listen` or `grant` runs; the rest: see Slots."""
        self.ring = SharedRing(job.data)
        self._job, self._hear, self._errors = job, hear, errors
        self._limit, self._meanwhile = _HANGING * patience, meanwhile
        self._places = places.copy()  # behind the last chunk that came
        self._replaced = 0
        self._suspects: set[Path] = set()
        self._files: dict[int, Path] = {}  # that the slots play
        share = sharing(job.data)
        count = min(job.data.threads * share, job.data.slots)
        self._members = [_Worker(range(number, job.data.slots, count), number // share) for number in range(count)]
        for member in self._members:
            member.due = [(slot, half) for half in range(HALVES) for slot in member.slots]
            member.start(job, self._places, self.ring)

    def grant(self, slot: int, half: int) -> None:
        """Have the half filled with what the slot plays after what was granted before, from the next `send` on."""
        self._members[slot % len(self._members)].due.append((slot, half))

    def send(self) -> None:
        """Tell the processes what was granted, having heard them: one that waits to be heard would not listen."""
        for member in self._members:
            if member.due:
                try:
                    self._drain(member)
                    member.send()
                except (EOFError, OSError):
                    self._replace(member)

    def listen(self, slot: int) -> None:
        """Hear a piece of news from the slot's process, or replace one that has died or hangs.

        Raises DataError: none has come for too long, or processes keep dying.
        """
        member = self._members[slot % len(self._members)]
        try:
            if self._speaks(member):
                self._take(member, member.connection.recv())
            else:
                self._hurry(self._decoding(member))
        except (EOFError, OSError):
            self._replace(member)

    def _speaks(self, member: "_Worker") -> bool:
        """Wait for it, while the one that decodes does not hang."""
        start = time.monotonic()
        while not member.connection.poll(_SLICE):
            self._meanwhile()
            decoding = self._decoding(member)
            limit = self._limit if decoding.heard else max(2 * self._limit, _STARTING)
            if time.monotonic() - max(start, decoding.since) > limit:
                return False
        return True

    def _hurry(self, decoding: "_Worker") -> None:
        """Replace one that hangs: whatever it hangs at, a new one may not. Raises DataError: a new one did, too."""
        file = self._busy_with(decoding)
        if decoding.late or file in self._suspects:
            raise DataError(
                f"{file or 'a decoding process'} took longer than {self._limit:g} s to decode, twice: "
                f"is the disk or the stream stuck? Raise network.deadline if that is expected"
            )
        decoding.late = True
        self._replace(decoding)

    def close(self) -> None:
        """End the processes; they hold nothing that is needed."""
        for member in self._members:
            member.end()
        self.ring.close()

    def _take(self, member: "_Worker", news: News) -> None:
        member.heard, member.since = True, time.monotonic()
        if isinstance(news, Begun):
            self._survived(news.slot)
            self._files[news.slot] = news.path
        elif isinstance(news, ClipError):
            self._errors.add(news.kind, news.reason)
        elif not isinstance(news, Busy):
            slot, _ = member.granted.popleft()
            assert slot == news.slot, "a process fills what it was granted in the order in which it was"
            member.late = False
            if isinstance(news, Filled):
                self._places[slot] = news.clip, news.before + news.frames
                self._survived(slot)
            self._hear(news)

    def _replace(self, member: "_Worker") -> None:
        """Go on with a new process behind what the dead one has said."""
        with suppress(EOFError, OSError):
            self._drain(member)  # what it said before it died still counts
        ending = member.end()
        self._replaced += 1
        if self._replaced > _REPLACEMENTS:
            raise DataError(
                f"a decoding process ended with {ending}, as {_REPLACEMENTS} of this stream did before: "
                f"is memory short, or the disk failing?"
            )
        file = self._busy_with(member)
        if file in self._suspects:
            self._errors.add("skipped", f"{file}: two processes that decoded it died, the last by {ending}")
            self._job.hopeless.add(file)
        elif file is not None:
            self._suspects.add(file)
        for slot in member.slots:
            self._files.pop(slot, None)
        member.start(self._job, self._places, self.ring)

    def _survived(self, slot: int) -> None:
        """What the slot has played so far has done no harm."""
        if slot in self._files:
            self._suspects.discard(self._files[slot])

    def _decoding(self, member: "_Worker") -> "_Worker":
        """The one that holds the baton, of those that it takes turns with, heard; itself, if none holds it."""
        process = DecodeLock(self.ring.file, member.baton).holder()
        decoding = next((other for other in self._members if other.process.pid == process), member)
        if decoding is not member:
            with suppress(EOFError, OSError):  # it has died meanwhile: told when its own frames are due
                self._drain(decoding)
        return decoding

    def _busy_with(self, member: "_Worker") -> Path | None:
        """The file that it decodes."""
        return self._files.get(member.granted[0][0]) if member.granted else None

    def _drain(self, member: "_Worker") -> None:
        while member.connection.poll():
            self._take(member, member.connection.recv())


class _Worker:
    """One process, and what it was told.

    Attributes:
        baton: the number of its baton, which another may share.
        granted: the halves that it has still to fill, in their order.
        due: those that it has still to be told of.
        late: one that hung was replaced, and its successor has filled nothing yet.
        heard: the process has said something; since: when it did so last, or was started.
    """

    def __init__(self, slots: range, baton: int) -> None:
        self.slots, self.baton = slots, baton
        self.granted: deque[Grant] = deque()
        self.due: list[Grant] = []
        self.late = self.heard = False
        self.since = 0.0
        self.connection: Connection
        self.process: subprocess.Popen[bytes]

    def start(self, job: Job, places: Places, ring: SharedRing) -> None:
        """Start it, where its slots' places are."""
        self.heard, self.since = False, time.monotonic()
        self.connection, theirs = Pipe()
        passed = theirs.fileno(), ring.file
        command = [sys.executable, "-P", "-m", "coordinator.video.decoder_pool.worker", *map(str, passed)]
        environment = {**ALLOCATOR, **os.environ}  # frames are as large as tensors
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=passed)
        theirs.close()
        self.granted, self.due = deque(), [*self.granted, *self.due]
        with suppress(OSError):  # it has died at once: heard when it is listened to
            self.connection.send((job, [places[slot] for slot in self.slots], self.baton))
            self.send()

    def send(self) -> None:
        """Tell it what is due."""
        due, self.due = self.due, []
        self.granted += due
        self.connection.send(due)

    def end(self) -> str:
        """End it, if it has not ended. Returns how it did."""
        self.process.kill()
        self.connection.close()
        try:
            code = self.process.wait(_DYING)
        except subprocess.TimeoutExpired:  # the kernel lets nothing end that waits for a disk
            return "no sign of its end: the disk that it reads from hangs"
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
