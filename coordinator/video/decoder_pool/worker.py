"""A decoder process: decodes its share of a stream's slots ahead, into the shared ring.

A process, not a thread: FFmpeg returns to Python thousands of times a second and would wait for the interpreter lock
each time; and a file that crashes FFmpeg kills only this process. It does not import torch, so that it starts quickly,
unless colours are jittered or crops resized.

consumes   a Job and its slots' places, once; then lists of (slot, half) whose frames may be overwritten
produces   frames in the ring, and messages about them
waits for  grants from the coordinator, and the decode lock; exits with the coordinator
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import Chunk, ClipPlayer, Job
from coordinator.video.decoder_pool.decode_lock import DecodeLock
from coordinator.video.decoder_pool.messages import (
    ClipError,
    Ended,
    FileStarted,
    Filled,
    Grant,
    Heartbeat,
    Message,
    Notice,
)
from coordinator.video.decoder_pool.shared_ring import SharedRing
from coordinator.video.stream import Places


class DecoderWorker:
    """One process's share of a stream."""

    def __init__(
        self, connection: Connection, job: Job, places: Places, ring: SharedRing, decode_lock: DecodeLock
    ) -> None:
        """Prepare the slots.

        Args:
            places: per slot of this process, the entry to start at and how many of its frames to leave out.
            decode_lock: held while anything is decoded.
        """
        self._connection, self._ring = connection, ring
        player = ClipPlayer(
            job,
            lambda kind, reason: self._send(ClipError(kind, reason)),
            decode_lock,
            lambda: self._send(Heartbeat()),
            lambda text: self._send(Notice(text)),
        )
        self._room = ring.room(0, 0)
        self._chunks: dict[int, Iterator[Chunk]] = {
            slot: player.chunks(entry, done, lambda: self._room, partial(self._begin, slot))
            for entry, done in places
            for slot in [entry % job.data.slots - job.slots.start]
        }
        self._grants: deque[Grant] = deque()
        if job.train and job.data.computes:
            import torch

            torch.set_num_threads(1)  # intra-op threads would busy-wait

    def run(self) -> NoReturn:
        """Fill granted halves, in order, until the coordinator closes the connection (EOFError, ConnectionError)."""
        while True:
            while not self._grants or self._connection.poll():
                self._grants.extend(self._connection.recv())
            slot, half = self._grants.popleft()
            self._room = self._ring.room(slot, half)
            self._send(self._fill(slot, half))

    def _fill(self, slot: int, half: int) -> Filled | Ended:
        """Decode the slot's next chunk into the half."""
        try:
            chunk = next(self._chunks[slot], None)
        except DataError as error:
            return Ended(slot, str(error))
        return Ended(slot) if chunk is None else Filled(slot, half, *chunk)

    def _begin(self, slot: int, path: Path) -> None:
        self._send(FileStarted(slot, path))

    def _send(self, message: Message) -> None:
        self._connection.send(message)


def main() -> None:
    """`python -P -m coordinator.video.decoder_pool.worker CONNECTION MEMORY`, two file descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the coordinator decides when to end
    connection = Connection(int(sys.argv[1]))
    try:
        job, places, number = connection.recv()
        ring = SharedRing(job.of_share, int(sys.argv[2]))
        DecoderWorker(connection, job, places, ring, DecodeLock(ring.file, number)).run()
    except (EOFError, ConnectionError):
        os._exit(0)  # the coordinator has exited


if __name__ == "__main__":
    main()
