"""Finds runs to show or control: in the Redis at REDIS_URL, or by their run directory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import SidewaysError
from common.run_registry.records import MOST_STATUS, OVER, STARTS, STATUS, Owner, Status, decode
from common.run_registry.redis_connection import RedisAccess, at_socket, from_environment
from common.run_registry.store import ALIVE, Store
from coordinator.registry.embedded_redis import SOCKET
from coordinator.run_directory import LOCK


@dataclass(frozen=True)
class RunInfo:
    """A run's last status. `state` is the one it reported, or `lost` if it has not ended but has no heartbeat."""

    status: Status
    state: str


class RunAccess:
    """Access to one run in Redis."""

    def __init__(self, name: str, access: RedisAccess) -> None:
        self.name, self._access = name, access
        self.store = Store(access.connect())

    def get_run(self) -> RunInfo | None:
        """The run's status; None if Redis does not have the run. Raises SidewaysError if Redis does not answer."""
        with self.explained():
            status = self.store.status(self.name)
            return None if status is None else _run_info(status, self.store.alive(self.name))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of Redis or its connection in the body into a SidewaysError."""
        with _reaching(self._access):
            yield


@contextmanager
def _reaching(access: RedisAccess) -> Iterator[None]:
    import redis

    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise SidewaysError(f"Redis at {access.shown} does not answer: {access.explain(error)}") from None


def _run_info(status: Status, alive: bool) -> RunInfo:
    return RunInfo(status, status.state if alive or status.state in OVER else "lost")


def find(run: str, runs: Path) -> RunAccess | None:
    """Find a run in Redis: its private one, or else that of REDIS_URL.

    Args:
        run: the run's name or directory.
        runs: the folder of run directories.

    Returns:
        Access to the run; None if only its run directory is left.

    Raises:
        SidewaysError: there is no such run, or Redis does not answer.
    """
    folder = _folder(run, runs)
    saved = _saved_status(folder).status if (folder / STATUS).is_file() else None
    if saved is None and (folder / LOCK).is_file():
        raise SidewaysError(f"the run in {folder} has not begun, or publishes nothing (report.redis = false)")
    name = saved.name if saved is not None else folder.resolve().name
    if (private := _private(folder)) is not None and (found := _reached(RunAccess(name, private))) is not None:
        return found
    if (access := from_environment()) is not None:
        found = RunAccess(name, access)
        info = found.get_run()
        if info is not None and (saved is None or _is_same(info.status.owner, saved.owner)):
            return found
    if saved is not None:
        return None
    raise SidewaysError(f"there is no run {run!r}. {_known(runs)}")


def _reached(found: RunAccess) -> RunAccess | None:
    """Access to a run in its private Redis; None if that was killed, or does not have it yet."""
    try:
        return found if found.get_run() is not None else None
    except SidewaysError:
        return None


def _is_same(one: Owner, other: Owner) -> bool:
    """Whether two coordinators, perhaps of two attempts, are of the same run."""
    return (one.host, one.directory) == (other.host, other.directory)


def _known(runs: Path) -> str:
    names = ", ".join(info.status.name for info in list_runs(runs)[:20])
    where = f"in {runs}/" if from_environment() is None else f"in {runs}/ or in Redis"
    return f"Known runs: {names}" if names else f"No run is known {where}: pass its directory, or set its REDIS_URL"


def get_run(run: str, runs: Path) -> RunInfo:
    """The status of a run, from Redis or else from its run directory. Raises SidewaysError."""
    found = find(run, runs)
    info = found.get_run() if found is not None else None
    return info or _saved_status(_folder(run, runs))


def _folder(run: str, runs: Path) -> Path:
    """The run directory that `run` refers to, by path or by name. It need not exist."""
    named = Path(run)
    return named if (named / STATUS).is_file() or (not (runs / run).is_dir() and named.is_dir()) else runs / run


def list_runs(runs: Path, warn: Callable[[str], None] = lambda text: None) -> list[RunInfo]:
    """All runs in the Redis of REDIS_URL and in the folder `runs`, the newest first.

    `warn` is called for each that cannot be read, as one of another version. Raises SidewaysError.
    """
    found: dict[tuple[str, str], RunInfo] = {}
    access = from_environment()
    if access is not None:
        with _reaching(access):
            store = Store(access.connect())
            for name in store.names():
                try:
                    status = store.status(name)
                except SidewaysError as error:
                    warn(f"{name}: {error}")
                    continue
                if status is not None:
                    found[status.owner.host, status.owner.directory] = _run_info(status, store.alive(name))
    for folder in sorted(path.parent for path in runs.glob(f"*/{STATUS}")):
        try:
            info = _local(folder)
        except SidewaysError as error:
            warn(str(error))
            continue
        found.setdefault((info.status.owner.host, info.status.owner.directory), info)
    return sorted(found.values(), key=lambda info: -info.status.started)


def _local(folder: Path) -> RunInfo:
    """A run on this host, from its private Redis if that answers, or else from its run directory."""
    access = _private(folder)
    found = _reached(RunAccess(folder.resolve().name, access)) if access is not None else None
    info = found.get_run() if found is not None else None
    return info or _saved_status(folder)


def _private(folder: Path) -> RedisAccess | None:
    """The run's private Redis; None if it has no socket."""
    socket = folder / SOCKET
    return at_socket(socket.resolve()) if socket.is_socket() else None


def _saved_status(folder: Path) -> RunInfo:
    """The last status that a run directory holds. Raises SidewaysError."""
    try:
        with open(folder / STATUS, "rb") as file:
            status = decode(Status, file.read(MOST_STATUS + 1), where=str(folder / STATUS))
    except OSError as error:
        raise SidewaysError(f"{folder / STATUS} cannot be read: {error}") from error
    return _run_info(status, alive=status.state in STARTS and time.time() < status.updated + ALIVE)
