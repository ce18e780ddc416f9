"""The reports of a stage to the coordinator. Validated strictly, since a socket is not trusted.

Progress   a few times a second: statistics of the ticks since the last report
Done       a phase has ended
Failed     the stage exits, and why
Signalled  the process received a signal that asks the run to stop
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from common.errors import PeerError
from common.messages import strict
from common.messages.encoding import OTHER_SENDER, encode
from common.messages.strict import Count, Seconds, StrictMessage, decoded

_Ticks = Annotated[int, Field(gt=0, lt=1 << 31)]


class _Report(StrictMessage):
    """Fields of every report.

    Attributes:
        stage: the sender's stage.
        replica: the sender's replica.
        dropped: number of reports dropped so far because the queue was full.
    """

    stage: Count
    replica: Count = 0
    dropped: Count


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
    tick: Count
    ticks: _Ticks
    seconds: Seconds
    compute_seconds: float
    receive_wait_seconds: float
    send_wait_seconds: float
    data_wait_seconds: float
    outside_cpu_seconds: float | None = None
    rows: Count
    gated: Count
    gradient_norm: float | None
    rate: float | None
    peak_memory_bytes: Count
    bytes_forward: Count
    bytes_backward: Count
    loss: float | None = None
    counted: Annotated[int, Field(gt=0, lt=1 << 62)] | None = None
    correct: Seconds | None = None
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


class Failed(strict.Failed, _Report):
    """The stage exits with `code`, because of `message`."""


class Signalled(strict.Signalled, _Report):
    """The stage's process received a signal that asks the run to stop."""


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
    report = decoded(_ANY, message, attempt, "a report")
    if report.stage >= stages:
        raise PeerError(f"received a report of stage {report.stage}, but there are {stages} stages: {OTHER_SENDER}")
    if report.replica >= replicas:
        raise PeerError(f"received a report of replica {report.replica}, but there are {replicas}: {OTHER_SENDER}")
    return report
