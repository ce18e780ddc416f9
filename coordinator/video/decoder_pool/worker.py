"""A decoder process: decodes its share of a stream's slots ahead, into the shared ring.

A process, not a thread: FFmpeg returns to Python thousands of times a second and would wait for the interpreter lock
each time; and a file that crashes FFmpeg kills only this process. It does not import torch, so that it starts quickly,
unless colours are jittered or crops resized.

consumes   a Job, once, and where its slots start, anew once all have ended; ticks up to which it may decode
produces   frames in the ring, and messages about them
waits for  the coordinator to let it decode on, and the decode lock; exits with the coordinator
"""

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from common.errors import DataError
from common.processes.parent import die_with_parent
from coordinator.video.decoder_pool.clip_player import Chunk, ClipPlayer, Job
from coordinator.video.decoder_pool.decode_lock import DecodeLock
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


class DecoderWorker:
    """One process's share of a stream."""

    def __init__(
        self, connection: Connection, job: Job, starts: Sequence[SlotStart], ring: SharedRing, decode_lock: DecodeLock
    ) -> None:
        """Prepare the slots.

        Args:
            starts: of the slots of this process.
            decode_lock: held while anything is decoded.
        """
        self._connection, self._ring, self._end = connection, ring, 0
        self._player = ClipPlayer(
            job,
            lambda kind, reason: self._send(ClipError(kind, reason)),
            decode_lock,
            lambda: self._send(Heartbeat()),
            lambda text: self._send(Notice(text)),
        )
        self._room = ring.room(0, 0, 1)
        self._start(starts)
        if job.train and job.data.computes:
            import torch

            torch.set_num_threads(1)  # intra-op threads would busy-wait

    def run(self) -> NoReturn:
        """Decode what may be decoded, until the coordinator closes the connection (EOFError, ConnectionError)."""
        while True:
            while (slot := next_slot(self._ticks, self._end)) is None or self._connection.poll():
                received = self._connection.recv()
                if isinstance(received, int):
                    self._end = received
                else:
                    self._start(received)
            self._send(self._fill(slot))

    def _start(self, starts: Sequence[SlotStart]) -> None:
        self._ticks = {start.slot: start.tick for start in starts}  # of the next frame to be decoded
        self._chunks: dict[int, Iterator[Chunk]] = {
            slot: self._player.chunks(entry, done, lambda: self._room, partial(self._begin, slot))
            for slot, _, entry, done in starts
        }

    def _fill(self, slot: int) -> Filled | Ended:
        """Decode the slot's next chunk into the ring."""
        tick = self._ticks[slot]
        self._room = self._ring.room(slot, tick, self._end)
        failure = ""
        try:
            if (chunk := next(self._chunks[slot], None)) is not None:
                self._ticks[slot] += chunk.frames
                return Filled(slot, tick, *chunk)
        except DataError as error:
            failure = str(error)
        del self._ticks[slot]
        return Ended(slot, failure)

    def _begin(self, slot: int, path: Path) -> None:
        self._send(FileStarted(slot, path))

    def _send(self, message: Message) -> None:
        self._connection.send(message)


def main() -> None:
    """`python -P -m coordinator.video.decoder_pool.worker CONNECTION MEMORY JOB PARENT`: three files, and a pid."""
    connection, memory, work, parent = map(int, sys.argv[1:])
    die_with_parent(parent)  # it may hang in a read when the coordinator is killed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the coordinator decides when to end
    with open(work, "rb") as stream:
        job, starts, number = pickle.load(stream)  # noqa: S301  # the coordinator wrote it
    try:
        ring = SharedRing(job.of_share, job.in_use, memory)
        DecoderWorker(Connection(connection), job, starts, ring, DecodeLock(ring.file, number)).run()
    except (EOFError, ConnectionError):
        os._exit(0)  # the coordinator has exited


if __name__ == "__main__":
    main()
