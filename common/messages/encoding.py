"""ZeroMQ messages: msgpack maps, decoded strictly, with the attempt of the run that sent them."""

from typing import Any

import msgpack

from common.errors import PeerError

OTHER_SENDER = "is another program sending to this port?"


class OtherAttemptError(PeerError):
    """A message from a process of another attempt, to be ignored."""


def check_attempt(message: dict[str, Any], attempt: int) -> None:
    """Raise OtherAttemptError for a message of another attempt. A missing attempt is left to later checks."""
    named = message.get("attempt")
    if type(named) is int and named != attempt:
        raise OtherAttemptError(f"received a message of attempt {named} in attempt {attempt}")


def encode(message: dict[str, Any]) -> bytes:
    """Encode a map with string keys as msgpack."""
    return msgpack.packb(message)


def decode(data: bytes | memoryview) -> dict[str, Any]:
    """Decode a msgpack map with string keys. Raises PeerError for anything else."""
    size = len(data)
    try:
        message = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise PeerError(f"a message of {size} bytes is not msgpack ({error}): {OTHER_SENDER}") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise PeerError(f"a message of {size} bytes is not a map with string keys: {OTHER_SENDER}")
    return message
