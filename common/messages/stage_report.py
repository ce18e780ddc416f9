"""What a stage may report, and nothing else: strictly checked, as the socket is open to whoever belongs to the run."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from common.errors import PeerError

Report = dict[str, Any]

_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Any(TypedDict):
    attempt: _Count
    stage: _Count
    dropped: _Count


class _Progress(_Any):
    kind: Literal["progress"]
    tick: _Count
    ticks: Annotated[int, Field(gt=0, lt=1 << 31)]
    seconds: _Seconds
    rows: _Count
    gated: _Count
    gradient_norm: float | None
    rate: float | None  # of a stage without parameters
    peak_memory_bytes: _Count
    compute_seconds: float  # a difference of clocks
    receive_wait_seconds: float
    send_wait_seconds: float
    data_wait_seconds: float
    bytes: _Count
    bytes_forward: _Count
    bytes_backward: _Count
    outside_cpu_seconds: NotRequired[float]
    loss: NotRequired[float]
    losses_held: NotRequired[Annotated[int, Field(gt=0, lt=1 << 31)]]
    correct: NotRequired[_Count]
    losses: NotRequired[list[float]]


class _Done(_Any):
    kind: Literal["done"]


class _Failed(_Any):
    kind: Literal["failed"]
    message: str
    code: Annotated[int, Field(gt=0, lt=256)]


class _Signal(_Any):
    kind: Literal["signal"]
    signal: Annotated[int, Field(gt=0, lt=65)]


_KNOWN: TypeAdapter[Any] = TypeAdapter(Annotated[_Progress | _Done | _Failed | _Signal, Field(discriminator="kind")])
_STRANGE = "is something else sending here?"


def check_report(report: Report, stages: int) -> None:
    """Raises PeerError for what is no report of one of so many stages."""
    try:
        _KNOWN.validate_python(report, strict=True)
        if report["stage"] >= stages:
            raise PeerError(f"a report of stage {report['stage']} came, and there are {stages}: {_STRANGE}")
        if report["kind"] == "progress" and ("loss" in report) != ("losses_held" in report):
            raise PeerError(f"a report of stage {report['stage']} has a loss of no ticks: {_STRANGE}")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its form"
        raise PeerError(f"a report is malformed ({where}: {first['msg']}): {_STRANGE}") from None
