"""A decoder process, as the coordinator sees it."""

import os
import pickle
import signal
import subprocess
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from common.processes.allocator import ALLOCATOR
from common.processes.python_command import python_command
from common.shared_memory.memfd import memory_file
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.messages import Ended, Filled, SlotStart
from coordinator.video.decoder_pool.shared_ring import SharedRing

_KILL_TIMEOUT = 2.0  # seconds to wait for a killed process to exit


class DecoderProcess:
    """One process and what it is to decode.

    Attributes:
        starts: by slots that have not ended: what follows the last chunk received.
        decode_lock: index of its decode lock, which another process may share.
        predecessor_hung: whether its predecessor hung, and it has filled nothing yet.
        has_reported: whether the process has sent a message.
        last_message_time: time of its last message, or of its start.
    """

    def __init__(self, decode_lock: int) -> None:
        self.starts: dict[int, SlotStart] = {}
        self.decode_lock = decode_lock
        self.predecessor_hung = self.has_reported = False
        self.last_message_time = 0.0
        self.connection: Connection
        self.process: subprocess.Popen[bytes]

    @property
    def ticks(self) -> dict[int, int]:
        """The tick of the next frame, by slots that have not ended."""
        return {slot: start.tick for slot, start in self.starts.items()}

    def note(self, message: Filled | Ended) -> None:
        """Note what was received."""
        if isinstance(message, Ended):
            del self.starts[message.slot]
        else:
            tick, done = message.tick + message.frames, message.before + message.frames
            self.starts[message.slot] = SlotStart(message.slot, tick, message.clip, done)

    def start(self, job: Job, ring: SharedRing, until: int) -> None:
        """Start the process where its slots are, and let it decode up to tick `until`."""
        self.has_reported, self.last_message_time = False, time.monotonic()
        self.connection, theirs = Pipe()
        work = memory_file("sideways-job", 0)  # the connection would only take it as fast as the process reads
        with open(work, "wb", closefd=False) as stream:
            pickle.dump((job, list(self.starts.values()), self.decode_lock), stream)
        os.lseek(work, 0, os.SEEK_SET)
        files = theirs.fileno(), ring.file, work
        command = python_command("coordinator.video.decoder_pool.worker", *map(str, (*files, os.getpid())))
        passed = files + (job.cache.inherited if job.cache else ())
        environment = {**ALLOCATOR, **os.environ}  # frames are as large as tensors
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=passed)
        theirs.close()
        os.close(work)
        with suppress(OSError):  # it has died already: noticed at the next receive
            self.connection.send(until)

    def kill(self) -> str:
        """Kill the process if it still runs. Returns how it ended, for an error message."""
        self.process.kill()
        self.connection.close()
        try:
            code = self.process.wait(_KILL_TIMEOUT)
        except subprocess.TimeoutExpired:  # a process in uninterruptible disk wait cannot be killed
            return "no exit after SIGKILL: the disk that it reads from hangs"
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
