"""What is said about a run in Redis, and to it: JSON of known form and bounded size, decoded strictly."""

import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from common.config.settings import MOST_TRACED
from common.errors import SidewaysError

MOST_STATUS, MOST_COMMAND, MOST_LINE = 1 << 20, 1 << 12, 1 << 16  # bytes

State = Literal["starting", "running", "paused", "finished", "stopped", "failed"]
OVER = ("finished", "stopped", "failed")


def _printable(text: str) -> str:
    """Control characters would reach somebody's terminal."""
    if not text.isprintable():
        raise ValueError("it holds control characters")
    return text


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Figure = float | None


class Record(BaseModel):
    """Fixed once made; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()


class Owner(Record):
    """The coordinator that a heartbeat is of."""

    host: Text
    directory: Text
    pid: int


class StageStatus(Record):
    """A stage's last report: times in ms a tick, memory in MiB."""

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
    """A run as it is now. Times are seconds since 1970; `dropped`: metric lines that Redis was away too long for."""

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
    evaluation: dict[Text, Figure] = Field({}, max_length=32)
    dropped: int = 0
    stages: list[StageStatus] = Field([], max_length=256)

    @property
    def ticks_per_second(self) -> float | None:
        """By stage 0's last report."""
        return 1e3 / self.stages[0].tick_ms if self.stages and self.stages[0].tick_ms > 0 else None


class Command(Record):
    """What somebody asks of a run. `lr`: the learning rate to set, as optimiser.lr; `ticks`: how many to trace."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    do: Literal["pause", "resume", "checkpoint", "stop", "set", "trace"]
    lr: Annotated[float, Field(ge=0)] | None = None
    ticks: Annotated[int, Field(ge=1, le=MOST_TRACED)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Command":
        if (self.do == "set") != (self.lr is not None):
            raise ValueError("`set` has a learning rate, and nothing else has one")
        if (self.do == "trace") != (self.ticks is not None):
            raise ValueError("`trace` has a number of ticks, and nothing else has one")
        return self


class Answer(Record):
    """What became of a command; `taken`: it is carried out as soon as the run is between two ticks."""

    state: Literal["taken", "done", "refused"]
    text: Text


Known = TypeVar("Known", bound=Record)


def decode(kind: type[Known], data: bytes, most: int = MOST_STATUS) -> Known:
    """Raises SidewaysError for what is larger than `most` bytes or not of this kind."""
    if len(data) > most:
        raise SidewaysError(f"a {kind.__name__} of more than {most} bytes is in Redis: it is none of ours")
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SidewaysError(
            f"a {kind.__name__} in Redis is malformed ({where}: {first['msg']}): is it of another version of Sideways?"
        ) from None


def encode_line(line: dict[str, Any]) -> bytes:
    """A line of metrics.jsonl, without the single ticks' losses; null stands for NaN and infinity."""
    return json.dumps({key: finite(value) for key, value in line.items() if key != "losses"}).encode()


def decode_line(data: bytes) -> dict[str, Any]:
    """A line of the metric history. Raises SidewaysError."""
    try:
        if len(data) > MOST_LINE:
            raise ValueError(f"more than {MOST_LINE} bytes")
        line = json.loads(data, parse_constant=_no_constant)
        if not isinstance(line, dict) or type(line.get("tick")) is not int or not isinstance(line.get("kind"), str):
            raise ValueError("no kind or no tick")
    except (ValueError, RecursionError) as error:
        raise SidewaysError(f"a line of the metric history in Redis is malformed ({str(error)[:100]})") from None
    return line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def finite(value: Any) -> Any:
    """The value; None for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(text: str) -> str:
    """A message fit for a record: one line, bounded, nothing that steers a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:1000]
