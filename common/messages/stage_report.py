"""The reports of a stage to the coordinator. Validated strictly, since a socket is not trusted.

Progress   a few times a second: statistics of the ticks since the last report
Done       a phase has ended
Failed     the stage exits, and why
Signalled  the process received a signal that asks the run to stop
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, check_attempt, decode, encode

_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Ticks = Annotated[int, Field(gt=0, lt=1 << 31)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Report(BaseModel):
    """Fields of every report.

    Attributes:
        attempt: attempt of the run (Membership.attempt).
        stage: the sender's stage.
        replica: the sender's replica.
        dropped: number of reports dropped so far because the queue was full.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    attempt: _Count
    stage: _Count
    replica: _Count = 0
    dropped: _Count


class Progress(_Report):
    """Statistics of the `ticks` ticks up to `tick`.

    Attributes:
        seconds: duration of the ticks.
        compute_seconds: part of it spent in the model.
        receive_wait_seconds, send_wait_seconds, data_wait_seconds: parts of it spent waiting.
        outside_cpu_seconds: CPU time of the process outside the model; None if the model uses several threads.
        rows, gated: gradient rows received, and those of them dropped at a clip boundary.
        gradient_norm: of the last tick; None before the first gradient.
        rate: learning rate; None for a stage without parameters.
        peak_memory_bytes: peak memory so far (common/telemetry/peak_memory.py).
        bytes_forward, bytes_backward: bytes sent to the stages above and below.
        loss: mean over the rows that had a target; None except in the top stage, or if none had.
        counted: number of those rows; None likewise.
        correct: sum over them of the share of their labels that are right; None for tasks without classes.
        losses: loss of every tick, if report.losses is set.
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
    counted: Annotated[int, Field(gt=0, lt=1 << 62)] | None = None
    correct: _Seconds | None = None
    losses: list[float] | None = None

    @model_validator(mode="after")
    def _losses_belong_to_rows(self) -> "Progress":
        if (self.loss is None) != (self.counted is None):
            raise ValueError("loss and counted must be set together")
        return self

    @property
    def wait_seconds(self) -> float:
        """Total time spent waiting, in seconds."""
        return self.receive_wait_seconds + self.send_wait_seconds + self.data_wait_seconds

    @property
    def accuracy(self) -> float | None:
        """Share of labels that are right; None for tasks without classes, or if no row had a label."""
        return self.correct / self.counted if self.correct is not None and self.counted else None


class Done(_Report):
    """A phase has ended in this stage."""

    kind: Literal["done"] = "done"


class Failed(_Report):
    """The stage exits with `code`, because of `message`."""

    kind: Literal["failed"] = "failed"
    message: str
    code: Annotated[int, Field(gt=0, lt=256)]


class Signalled(_Report):
    """The stage's process received a signal that asks the run to stop."""

    kind: Literal["signal"] = "signal"
    signal: Annotated[int, Field(gt=0, lt=65)]


Report = Progress | Done | Failed | Signalled

_ANY: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def encode_report(report: Report) -> bytes:
    """Encode a report as msgpack."""
    return encode(report.model_dump())


def decode_report(message: bytes, stages: int, attempt: int, replicas: int = 1) -> Report:
    """Decode a report of one of `stages` stages of one of `replicas` replicas.

    Raises:
        OtherAttemptError: it is from another attempt.
        PeerError: it is not a valid report.
    """
    fields = decode(message)
    check_attempt(fields, attempt)
    return _validated(fields, stages, replicas)


def _validated(fields: dict[str, Any], stages: int, replicas: int) -> Report:
    try:
        report = _ANY.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise PeerError(f"a report is malformed ({where}: {first['msg']}): {OTHER_SENDER}") from None
    if report.stage >= stages:
        raise PeerError(f"received a report of stage {report.stage}, but there are {stages} stages: {OTHER_SENDER}")
    if report.replica >= replicas:
        raise PeerError(f"received a report of replica {report.replica}, but there are {replicas}: {OTHER_SENDER}")
    return report
