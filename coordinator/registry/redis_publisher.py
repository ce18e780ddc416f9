"""Publishes a run's state in Redis and receives commands from there, in a thread of its own.

consumes   the lines of metrics.jsonl, the run's state, answers to commands
produces   status, heartbeat and metric history in Redis; commands for the training
waits for  Redis; the training does not. While Redis is unreachable, lines are kept up to a limit; beyond it
           the oldest are dropped and counted
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.config.settings import Config
from common.errors import SidewaysError
from common.run_registry.records import STATUS, Answer, Command, State, Status, encode_line
from common.run_registry.redis_connection import RedisAccess
from coordinator.atomic_file import replacing
from coordinator.monitor.listener import LineListener
from coordinator.monitor.run_status import RunStatus

if TYPE_CHECKING:
    from common.run_registry.store import RunWriter

_EVERY, _LONGEST_PAUSE = 0.25, 5.0  # seconds between exchanges; at most, while Redis is unreachable
_SAVE_EVERY = 5.0  # seconds between two versions of the file of the status, if only figures have changed
_BACKLOG, _AT_ONCE = 4096, 256  # lines kept; lines per exchange
_EXIT_TIMEOUT, _LINGER = 4.0, 0.5  # seconds for the last exchange; then for clients to read the answers


class RedisServer(Protocol):
    """The Redis server to publish in: the user's, or a private one of this run."""

    def access(self) -> RedisAccess:
        """How to connect. A private server is started if it is not running. Raises SidewaysError."""

    def on_no_answer(self) -> None:
        """The server did not answer. A private one is killed, so that the next `access` starts another."""

    def close(self) -> None:
        """Stop the server, if it is private."""


class RedisPublisher(LineListener):
    """Publishes one run. All methods but `close` return at once."""

    def __init__(
        self,
        config: Config,
        run: Path,
        total_ticks: int,
        server: "RedisServer",
        submit: Callable[[Command], None],
        warn: Callable[[str], None],
    ) -> None:
        """Prepare to publish; `start` begins.

        Args:
            run: the run directory; its name is the run's.
            total_ticks: ticks of the whole training.
            submit: called with each command, in the publisher's thread.
            warn: called with each warning, in the publisher's thread.
        """
        self.name = run.name
        self._run, self._server, self._submit, self._warn = run, server, submit, warn
        self._status = RunStatus(config, run, total_ticks)
        self._lines: deque[bytes] = deque(maxlen=_BACKLOG)
        self._dropped = 0
        self._answers: dict[str, Answer] = {}
        self._unsent: list[bytes] = []
        self._writer: RunWriter | None = None
        self._at: RedisAccess | None = None
        self._written: object = None
        self._saved = 0.0  # when
        self._truncate_from: tuple[int, bool] | None = None
        self._restarts = False
        self._new_run, self._disconnected, self._pause = True, False, _EVERY
        self._changed, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="redis", daemon=True)

    # ---- called by the training

    def start(self, resumed: bool) -> None:
        """Start the thread. A resumed run continues its metric history; a new one deletes any of the same name."""
        self._new_run = not resumed
        self._thread.start()

    def resumed(self, tick: int, evaluated: bool) -> None:
        """The run resumes at `tick`: drop the metric history from there on."""
        self._truncate_from = tick, evaluated

    def line(self, line: dict[str, Any], **status: Any) -> None:
        """Queue a line of metrics.jsonl, and update the fields of Status that it changes."""
        self._status.line(line, **status)
        self._dropped += len(self._lines) == _BACKLOG
        self._lines.append(encode_line({"time": round(time.time(), 3), **line}))

    def state(self, state: State, message: str, tick: int) -> None:
        """Publish a change of the run's state."""
        self._status.state(state, message, tick)
        self._changed.set()

    def answer(self, command: Command, answer: Answer) -> None:
        """Publish the answer to a command."""
        self._answers[command.id] = answer
        self._changed.set()

    def close(self, state: State, message: str, tick: int) -> None:
        """Publish the end of the run and all that is still queued. Waits a few seconds at most."""
        self.state(state, message, tick)
        self._restarts = state == "restarting"
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_EXIT_TIMEOUT)

    # ---- the thread

    def _work(self) -> None:
        try:
            self._publish_loop()
        except Exception as error:  # must be reported, but must not end the run
            self._warn(f"publishing to Redis has stopped, but the run continues: {type(error).__name__}: {error}")
        finally:
            self._server.close()

    def _publish_loop(self) -> None:
        lingering = False
        while True:
            ending, answers = self._ending.is_set(), dict(self._answers)
            status = self._status.status(self.name, self._dropped)  # no older than the answers
            self._write(status)
            self._try_exchange(status, answers)
            lingering = lingering or bool(answers)
            behind = bool(self._answers or self._lines)
            if ending and (self._disconnected or not behind):
                break
            if self._disconnected or not self._lines:
                self._changed.wait(self._pause)
                self._changed.clear()
        if lingering and not self._disconnected:
            time.sleep(_LINGER)  # a private Redis ends with this process

    def _try_exchange(self, status: Status, answers: dict[str, Answer]) -> None:
        import redis

        access: RedisAccess | None = None
        try:
            access = self._server.access()
            self._exchange(access, status, answers)
        except (redis.RedisError, OSError, SidewaysError) as error:
            self._on_unreachable(access, error)
            return
        if self._disconnected:
            self._warn(f"Redis at {access.shown} answers again")
        self._disconnected, self._pause = False, _EVERY

    def _on_unreachable(self, access: RedisAccess | None, error: Exception) -> None:
        """Redis is unreachable: warn once, and double the pause between attempts."""
        if not self._disconnected:
            where = f"at {access.shown} " if access else ""
            reason = access.explain(error) if access else str(error)
            self._warn(
                f"Redis {where}does not answer ({reason}): the run continues, but cannot be watched or controlled "
                f"from outside until it does"
            )
        self._server.on_no_answer()
        self._disconnected, self._pause = True, min(_LONGEST_PAUSE, 2 * self._pause)

    def _exchange(self, access: RedisAccess, status: Status, answers: dict[str, Answer]) -> None:
        if self._writer is None or access != self._at:
            self._writer, self._at = self._connect(access), access
        if self._truncate_from is not None:
            self._writer.truncate_from(*self._truncate_from)
            self._truncate_from = None
        while len(self._unsent) < _AT_ONCE and self._lines:
            self._unsent.append(self._lines.popleft())
        found = self._writer.exchange(status, self._unsent, answers)
        self._unsent = []
        for identity, answer in answers.items():
            if self._answers[identity] is answer:  # else a newer answer is still to be sent
                del self._answers[identity]
        for command in found:
            self._handle_command(command)
        if self._ending.is_set() and not self._restarts:
            self._writer.leave()

    def _connect(self, access: RedisAccess) -> "RunWriter":
        from common.run_registry.store import RunWriter

        writer = RunWriter(access.connect(), self.name, self._status.owner, self._new_run)
        self._new_run = False
        if writer.name != self.name:
            self._warn(f"another run named {self.name} is alive: in Redis this one is named {writer.name}")
        self.name = writer.name
        return writer

    def _handle_command(self, command: Command | str) -> None:
        if isinstance(command, str):
            self._warn(f"a command was ignored: {command}")
            return
        if self._ending.is_set():
            self.answer(command, Answer(state="refused", text="the run has ended"))
            return
        self.answer(command, Answer(state="taken", text="it will be executed between two ticks"))
        self._submit(command)

    def _write(self, status: Status) -> None:
        current = (status.state, status.message, status.name)
        if current == self._written and time.monotonic() < self._saved + _SAVE_EVERY:
            return
        self._written, self._saved = current, time.monotonic()
        # a full disk is reported where it matters: by the run directory
        with suppress(OSError), replacing(self._run / STATUS) as part:
            part.write_bytes(status.encode())
