"""Messages with a fixed set of fields, validated strictly, since a socket is not trusted."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import PeerError
from common.messages.encoding import OTHER_SENDER, check_attempt, decode

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
M = TypeVar("M")


class StrictMessage(BaseModel):
    """Attributes: attempt, that of the run (Membership.attempt)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    attempt: Count


class Failed(StrictMessage):
    """The sender exits with `code`, because of `message`."""

    kind: Literal["failed"] = "failed"
    message: str
    code: Annotated[int, Field(gt=0, lt=256)]


class Signalled(StrictMessage):
    """The sender's process received a signal that asks the run to stop."""

    kind: Literal["signal"] = "signal"
    signal: Annotated[int, Field(gt=0, lt=65)]


def decoded(adapter: TypeAdapter[M], data: bytes, attempt: int, what: str) -> M:
    """A message from its bytes.

    Args:
        what: the name of such a message, for the error.

    Raises:
        OtherAttemptError: it is from another attempt.
        PeerError: it is not a valid message.
    """
    fields: dict[str, Any] = decode(data)
    check_attempt(fields, attempt)
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise PeerError(f"{what} is malformed ({where}: {first['msg']}): {OTHER_SENDER}") from None
