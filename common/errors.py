"""Errors for the user: the message says what is wrong and what to do about it."""

from typing import ClassVar

PATH_ERRORS = "surrogateescape"  # for reading and writing file names, which need not be UTF-8


class SidewaysError(RuntimeError):
    """An error that the user can act on. Printed without a traceback; the process exits with `code`."""

    code: ClassVar[int] = 1


class ConfigError(SidewaysError):
    """A setting is unknown, invalid or contradicts another."""

    code = 2


class DataError(SidewaysError):
    """The videos cannot be used for the run. Raised from an OSError if they could not be read, which may pass."""


class PeerError(SidewaysError):
    """Another process died, stalled or sent an invalid message. The run may continue from a checkpoint."""

    code = 3


_LONGEST = 300  # characters


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened, to be quoted in another message; its type's name if it has none."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
