"""The records of a run in Redis: status, commands and answers. JSON of bounded size, validated strictly."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from common.config.settings import MOST_TRACED
from common.errors import SidewaysError

MOST_STATUS, MOST_COMMAND, MOST_LINE = 1 << 20, 1 << 12, 1 << 16  # bytes

State = Literal["starting", "running", "paused", "restarting", "finished", "stopped", "failed"]
STATUS = "status.json"  # in the run directory: the last status, for when the run's private Redis is gone
IN_ORDER = ("finished", "stopped")  # how a run ends whose model and summary are saved
OVER = (*IN_ORDER, "failed")
STARTS = ("starting", "restarting")  # states in which a run may not have a heartbeat yet
LIVE = (*STARTS, "running", "paused")


def _printable(text: str) -> str:
    """Reject control characters, which would reach a terminal. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("it contains control characters")
    return text


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Figure = float | None


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        """Encode as JSON."""
        return self.model_dump_json().encode()


class Owner(Record):
    """The coordinator that writes a heartbeat."""

    host: Text
    directory: Text
    pid: int


class StageStatus(Record):
    """A stage's last report: times in ms per tick, memory in MiB."""

    stage: int = Field(ge=0, lt=256)
    tick: int
    tick_ms: float
    compute_ms: float
    receive_wait_ms: float
    send_wait_ms: float
    data_wait_ms: float
    learning_rate: Figure = None
    gradient_norm: Figure = None
    gated_share: Figure = None
    peak_memory_mib: float


class Status(Record):
    """A run's current status.

    Attributes:
        started, updated: seconds since 1970.
        dropped: metric lines dropped because Redis was unavailable for too long.
    """

    name: Text
    owner: Owner
    state: State
    message: Text = ""
    algorithm: Text
    started: float
    updated: float
    tick: int
    planned: int
    learning_rate: Figure = None
    loss: Figure = None
    accuracy: Figure = None
    evaluation: dict[Text, Figure] = Field({}, max_length=400)
    dropped: int = 0
    stages: list[StageStatus] = Field([], max_length=256)

    @property
    def ticks_per_second(self) -> float | None:
        """From stage 0's last report; None before the first."""
        return 1e3 / self.stages[0].tick_ms if self.stages and self.stages[0].tick_ms > 0 else None


class Command(Record):
    """A user's command to a run.

    Attributes:
        lr: learning rate to set (optimiser.lr); for `set` only.
        ticks: number of ticks to trace; for `trace` only.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    do: Literal["pause", "resume", "checkpoint", "stop", "set", "trace"]
    lr: Annotated[float, Field(ge=0)] | None = None
    ticks: Annotated[int, Field(ge=1, le=MOST_TRACED)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Command":
        if (self.do == "set") != (self.lr is not None):
            raise ValueError("`set` needs a learning rate, and no other command takes one")
        if (self.do == "trace") != (self.ticks is not None):
            raise ValueError("`trace` needs a number of ticks, and no other command takes one")
        return self


class Answer(Record):
    """The state of a command. `taken`: accepted, and carried out as soon as the run is between two ticks."""

    state: Literal["taken", "done", "refused"]
    text: Text


Known = TypeVar("Known", bound=Record)


def decode(kind: type[Known], data: bytes, most: int = MOST_STATUS, where: str = "Redis") -> Known:
    """Decode a record, from `where`. Raises SidewaysError if it is larger than `most` bytes or not a valid `kind`."""
    if len(data) > most:
        raise SidewaysError(f"a {kind.__name__} in {where} is larger than {most} bytes: it was not written by Sideways")
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise SidewaysError(
            f"a {kind.__name__} in {where} is malformed ({field}: {first['msg']}): was it written by another version?"
        ) from None


def encode_line(line: dict[str, Any]) -> bytes:
    """Encode a line of metrics.jsonl as JSON, without the per-tick losses; NaN and infinity become null."""
    return json.dumps({key: finite(value) for key, value in line.items() if key != "losses"}).encode()


def decode_line(data: bytes) -> dict[str, Any]:
    """Decode a line of the metric history. Raises SidewaysError if it is malformed or larger than `MOST_LINE` bytes."""
    try:
        if len(data) > MOST_LINE:
            raise ValueError(f"more than {MOST_LINE} bytes")
        line = json.loads(data, parse_constant=_no_constant)
        if not isinstance(line, dict) or type(line.get("tick")) is not int or not isinstance(line.get("kind"), str):
            raise ValueError("the kind or the tick is missing")
    except (ValueError, RecursionError) as error:
        raise SidewaysError(f"a line of the metric history in Redis is malformed ({str(error)[:100]})") from None
    return line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def finite(value: Any) -> Any:
    """Return the value with None in place of NaN and infinity, which JSON lacks, also in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stays(line: Mapping[str, Any], tick: int, evaluated: bool) -> bool:
    """Whether a line of metrics.jsonl stays valid when the run is resumed at `tick`.

    Of those at `tick`, a change of the learning rate does, and the evaluation if `evaluated`; restarts always do.
    """
    at = ("evaluation", "set") if evaluated else ("set",)
    kind = line["kind"]
    return bool(line["tick"] < tick or (kind in at and line["tick"] == tick) or kind == "restart")


def plain(text: str) -> str:
    """Make a message fit for a record: one line, at most 1000 characters, no control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:1000]
