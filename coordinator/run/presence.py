"""The outward side of a run, from its first moment: the terminal, the page, Redis, the run marker."""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

from common.config.settings import Config
from common.processes.membership import Membership
from common.run_registry.records import State, plain
from common.run_registry.redis_connection import from_environment
from coordinator.launch.attempt import RunMarker, deployed
from coordinator.monitor.broadcast import Broadcast
from coordinator.monitor.terminal import Terminal
from coordinator.page.http_app import PageServer
from coordinator.page.state import PageState
from coordinator.registry.embedded_redis import EmbeddedRedis
from coordinator.registry.redis_publisher import RedisPublisher
from coordinator.run.commands import CommandQueue
from coordinator.run.stop_request import StopRequest
from coordinator.run_directory import LOCK
from coordinator.run_names import create
from coordinator.trackers.tracker import check_importable

_MOST_TEXT = 1000  # characters of an answer


class Presence:
    """Everything by which a run is watched and controlled from outside.

    Attributes:
        terminal: for messages.
        broadcast: passes events on to all listeners.
        commands: commands to the run.
        marker: the file by which a later attempt finds the run.
        page: the state that the page shows, after `introduce`; None without a page.
    """

    def __init__(self, config: Config, me: Membership, stop: StopRequest, resume: Path | None) -> None:
        """Bind the page's port. Raises ConfigError if it, REDIS_URL or a tracker cannot be used."""
        check_importable(config.report.trackers)
        self._config, self._me, self._resumed = config, me, resume is not None
        self.terminal = Terminal()
        self.broadcast = Broadcast(self.terminal)
        self.commands = CommandQueue(stop)
        self.marker = RunMarker(config)
        self.page: PageState | None = None
        self._redis = from_environment() if config.report.redis else None
        self._page_server = PageServer(config.report, resume) if config.report.page else None
        self._created: Path | None = None

    def create_directory(self, run_file: str) -> Path:
        """Create the run directory; if it is new, `fail` removes it before the first tick. Raises SidewaysError."""
        path = create(self._config, run_file)
        if not (path / LOCK).exists():
            self._created = path
        return path

    def introduce(self, config: Config, directory: Path, total_ticks: int) -> None:
        """Open the page and publish the run in Redis. `total_ticks`: ticks of the whole training."""
        if self._page_server is not None:
            self.page = PageState(config, directory, total_ticks, self._page_server, self.terminal.warnings)
            self.broadcast.add(self.page)
            url = self._page_server.open(self.page.answer, self.page.frames, self._me.address, directory)
            self.terminal.say(f"watch it at {url}")
        if config.report.redis:
            self.broadcast.add(self._publisher(config, directory, total_ticks))

    def _publisher(self, config: Config, directory: Path, total_ticks: int) -> RedisPublisher:
        """A publisher to the Redis of the environment (REDIS_URL), or to an embedded one."""
        server, submit = self._redis or EmbeddedRedis(directory), self.commands.submit
        publisher = RedisPublisher(config, directory, total_ticks, server, submit, self.terminal.warn)
        self.commands.answer = publisher.answer
        publisher.start(resumed=self._resumed)
        return publisher

    def close(self, state: State, text: str, tick: int) -> None:
        """The run has ended at `tick`; the remaining commands are answered with `text`."""
        self.commands.close(text)
        self.broadcast.close(state, "", tick)

    def fail(self, reason: str, tick: int, final: bool, will_restart: bool, before_removal: Callable[[], None]) -> None:
        """The run ends with an error: restore the terminal before the error is printed, and close all listeners.

        Args:
            final: whether no other attempt can follow.
            will_restart: whether the launcher starts another one.
            before_removal: if final, called before the marker, the URL file and an empty run directory are removed.
        """
        self.terminal.end()
        self.commands.close(f"the run failed: {plain(reason)}"[:_MOST_TEXT])
        self.broadcast.close("restarting" if will_restart else "failed", reason, tick)
        if not final:
            return
        before_removal()
        if not deployed():
            self.marker.remove()
        if self._page_server is not None:
            self._page_server.remove_url_file()
        if self._created is not None and tick == 0:  # it is empty; free its name
            rmtree(self._created, ignore_errors=True)
