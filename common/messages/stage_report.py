"""What a stage reports to the coordinator, and nothing else: checked strictly, as a socket is no place for trust.

Progress   a few times a second: what happened in the ticks since the last one
Done       a phase has ended
Failed     the stage ends, and why
Signalled  somebody asked this process to stop
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from common.errors import PeerError
from common.messages.encoding import check_attempt, decode, encode

_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Ticks = Annotated[int, Field(gt=0, lt=1 << 31)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Report(BaseModel):
    """Attributes: attempt: of the run (Membership.attempt); stage; dropped: reports that found no room so far."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    attempt: _Count
    stage: _Count
    dropped: _Count


class Progress(_Report):
    """The `ticks` ticks up to `tick`.

    Attributes:
        seconds: that they took; of which compute_seconds in the model, and three kinds of waiting.
        outside_cpu_seconds: of all threads outside the model; None where the model has threads of its own.
        rows, gated: gradient rows received, and of those dropped at a clip's boundary.
        gradient_norm: of the last tick; None before the first gradient.
        rate: the learning rate; None for a stage without parameters.
        bytes_forward, bytes_backward: sent to the stages above and below.
        loss: mean over `losses_held` ticks; None but in the top stage.
        correct: rows classified right in those ticks; None where nothing is classified.
        losses: of every tick, where report.losses asks for them.
    """

    kind: Literal["progress"] = "progress"
    tick: _Count
    ticks: _Ticks
    seconds: _Seconds
    compute_seconds: float
    receive_wait_seconds: float
    send_wait_seconds: float
    data_wait_seconds: float
    outside_cpu_seconds: float | None = None
    rows: _Count
    gated: _Count
    gradient_norm: float | None
    rate: float | None
    peak_memory_bytes: _Count
    bytes_forward: _Count
    bytes_backward: _Count
    loss: float | None = None
    losses_held: _Ticks | None = None
    correct: _Count | None = None
    losses: list[float] | None = None

    @model_validator(mode="after")
    def _losses_belong_to_ticks(self) -> "Progress":
        if (self.loss is None) != (self.losses_held is None):
            raise ValueError("a loss of no ticks")
        return self

    @property
    def wait_seconds(self) -> float:
        """Waiting for anything."""
        return self.receive_wait_seconds + self.send_wait_seconds + self.data_wait_seconds

    @property
    def accuracy_rows(self) -> int | None:
        """Rows that `correct` is out of, per slot; None where nothing is classified."""
        return self.losses_held if self.correct is not None else None


class Done(_Report):
    """A phase has ended in this stage."""

    kind: Literal["done"] = "done"


class Failed(_Report):
    """The stage ends with exit code `code`, because of `message`."""

    kind: Literal["failed"] = "failed"
    message: str
    code: Annotated[int, Field(gt=0, lt=256)]


class Signalled(_Report):
    """The stage's process was sent a signal that asks the run to stop."""

    kind: Literal["signal"] = "signal"
    signal: Annotated[int, Field(gt=0, lt=65)]


Report = Progress | Done | Failed | Signalled

_ANY: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
_STRANGE = "is something else sending here?"


def encode_report(report: Report) -> bytes:
    """As msgpack."""
    return encode(report.model_dump())


def decode_report(message: bytes, stages: int, attempt: int) -> Report:
    """A report of one of `stages` stages, of this attempt.

    Raises:
        OtherAttemptError: it is of another attempt.
        PeerError: it is no report.
    """
    fields = decode(message)
    check_attempt(fields, attempt)
    return _validated(fields, stages)


def _validated(fields: dict[str, Any], stages: int) -> Report:
    try:
        report = _ANY.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its form"
        raise PeerError(f"a report is malformed ({where}: {first['msg']}): {_STRANGE}") from None
    if report.stage >= stages:
        raise PeerError(f"a report of stage {report.stage} came, and there are {stages}: {_STRANGE}")
    return report
