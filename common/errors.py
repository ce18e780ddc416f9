"""Errors for the user: the message says what is wrong and what to do about it."""

from typing import ClassVar


class SidewaysError(RuntimeError):
    """An error that the user can act on. Printed without a traceback; the process exits with `code`."""

    code: ClassVar[int] = 1


class ConfigError(SidewaysError):
    """A setting is unknown, invalid or contradicts another."""

    code = 2


class DataError(SidewaysError):
    """The videos cannot be used for the run."""


class PeerError(SidewaysError):
    """Another process died, stalled or sent an invalid message. The run may continue from a checkpoint."""

    code = 3
