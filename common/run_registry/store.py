"""Storage of runs in Redis: status, heartbeat, metrics and commands. records.py defines the records.

    sideways:runs                     sorted set  run names, scored by start time
    sideways:run:<name>:status        string      the newest Status
    sideways:run:<name>:heartbeat     string      an Owner; expires ALIVE seconds after the last update
    sideways:run:<name>:metrics       stream      lines of metrics.jsonl, about the last METRICS
    sideways:run:<name>:commands      stream      Commands
    sideways:run:<name>:answer:<id>   string      the Answer to a command; expires after ten minutes

Every method may raise redis.RedisError. Malformed data raises SidewaysError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis

from common.errors import SidewaysError
from common.run_registry.records import (
    MOST_COMMAND,
    MOST_STATUS,
    Answer,
    Command,
    Owner,
    Status,
    decode,
    decode_line,
    stays,
)

METRICS = 10_000  # lines of a run
ALIVE = 10  # seconds until a heartbeat expires
_RUNS = 1000  # in the registry
_KEPT = 30 * 24 * 3600  # seconds after its last update at which a run expires
_COMMANDS, _ANSWERED = 100, 600  # commands; seconds
_FIELD = b"json"


class Keys:
    """The Redis keys of a run."""

    RUNS = "sideways:runs"

    def __init__(self, name: str) -> None:
        run = f"sideways:run:{name}"
        self.status, self.heartbeat = f"{run}:status", f"{run}:heartbeat"
        self.commands, self.metrics = f"{run}:commands", f"{run}:metrics"
        self._answer = f"{run}:answer"

    def answer(self, command: str) -> str:
        """The key of the answer to a command id."""
        return f"{self._answer}:{command}"


class RunWriter:
    """The run's side: publishes its state and reads commands."""

    def __init__(self, client: Redis, name: str, owner: Owner, anew: bool) -> None:
        """Claim `name`, or `name-1`, `name-2`, … if another live run holds it.

        Args:
            anew: delete the metric history that an earlier run of this name left.

        Raises:
            SidewaysError: a hundred live runs have the name.
        """
        self._client: Any = client  # redis's annotations are too broad
        self._owner = owner
        self.name = self._free(name)
        self._keys = Keys(self.name)
        if anew:
            self._client.delete(self._keys.metrics)
        newest = self._client.xrevrange(self._keys.commands, count=1)
        self._last_read: Any = newest[0][0] if newest else b"0-0"  # older commands were meant for an earlier run

    def _free(self, name: str) -> str:
        for attempt in range(100):
            candidate = name if attempt == 0 else f"{name}-{attempt}"
            holder = _bounded(self._client, Keys(candidate).heartbeat, MOST_COMMAND)
            if holder is None or _same_place(holder, self._owner):
                return candidate
        raise SidewaysError(f"a hundred live runs are named {name}: set another `name`")

    def exchange(self, status: Status, lines: Sequence[bytes], answers: Mapping[str, Answer]) -> list[Command | str]:
        """Write status, metric lines and answers, and read new commands, in one round trip.

        Returns the commands; for a malformed one, the error message instead.
        """
        keys, batch = self._keys, self._client.pipeline(transaction=False)
        batch.zadd(Keys.RUNS, {self.name: status.started})
        batch.zremrangebyrank(Keys.RUNS, 0, -_RUNS - 1)
        batch.set(keys.status, status.encode(), ex=_KEPT)
        batch.set(keys.heartbeat, self._owner.encode(), ex=ALIVE)
        for line in lines:
            batch.xadd(keys.metrics, {_FIELD: line}, maxlen=METRICS, approximate=True)
        batch.expire(keys.metrics, _KEPT)
        for command, answer in answers.items():
            batch.set(keys.answer(command), answer.encode(), ex=_ANSWERED)
        batch.xread({keys.commands: self._last_read}, count=_COMMANDS)
        found = batch.execute()[-1]
        return [self._decode_command(number, fields) for _, entries in found or [] for number, fields in entries]

    def _decode_command(self, number: bytes, fields: dict[bytes, bytes]) -> Command | str:
        self._last_read = number
        try:
            return decode(Command, fields.get(_FIELD, b""), MOST_COMMAND)
        except SidewaysError as error:
            return str(error)

    def truncate_from(self, tick: int, evaluated: bool) -> None:
        """Delete the metric lines that a run resumed at `tick` writes again; `evaluated`: not the evaluation there."""
        found = self._client.xrange(self._keys.metrics)
        late = [number for number, fields in found if not _stays(fields.get(_FIELD, b""), tick, evaluated)]
        if late:
            self._client.xdel(self._keys.metrics, *late)

    def leave(self) -> None:
        """Delete the heartbeat: the run has ended."""
        self._client.delete(self._keys.heartbeat)


class Store:
    """The clients' side: reads runs and sends them commands."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client

    def names(self) -> list[str]:
        """Names of the registered runs, newest first."""
        found = self._client.zrevrange(Keys.RUNS, 0, _RUNS)
        return [name.decode("utf-8", "replace") for name in found]

    def status(self, name: str) -> Status | None:
        """The status of a run; None if it is unknown."""
        data = _bounded(self._client, Keys(name).status, MOST_STATUS)
        return decode(Status, data) if data is not None else None

    def alive(self, name: str) -> bool:
        """Whether the run's heartbeat has not expired."""
        return bool(self._client.exists(Keys(name).heartbeat))

    def metrics(self, name: str, count: int) -> list[dict[str, Any]]:
        """The last `count` lines of the metric history, oldest first."""
        found = self._client.xrevrange(Keys(name).metrics, count=count)
        return [decode_line(fields.get(_FIELD, b"")) for _, fields in reversed(found)]

    def send_command(self, name: str, command: Command) -> bytes:
        """Send a command to a run. Returns its entry id, for `withdraw_command`."""
        keys = Keys(name)
        number = self._client.xadd(keys.commands, {_FIELD: command.encode()}, maxlen=_COMMANDS)
        self._client.expire(keys.commands, _KEPT)
        return number

    def withdraw_command(self, name: str, number: bytes) -> None:
        """Delete a command that nobody waits for any more. `number` is what `send_command` returned."""
        self._client.xdel(Keys(name).commands, number)

    def answer(self, name: str, command: Command) -> Answer | None:
        """The current answer to a command; None if there is none yet."""
        data = _bounded(self._client, Keys(name).answer(command.id), MOST_COMMAND)
        return decode(Answer, data) if data is not None else None


def _bounded(client: Any, key: str, most: int) -> bytes | None:
    """The value of a string key, at most `most` + 1 bytes of it; None if it is missing or empty."""
    return client.getrange(key, 0, most) or None


def _stays(data: bytes, tick: int, evaluated: bool) -> bool:
    try:
        return stays(decode_line(data), tick, evaluated)
    except SidewaysError:
        return False


def _same_place(holder: bytes, owner: Owner) -> bool:
    try:
        other = decode(Owner, holder, MOST_COMMAND)
    except SidewaysError:
        return False
    return (other.host, other.directory) == (owner.host, owner.directory)
