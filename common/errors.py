"""Errors meant for the person at the terminal: a sentence that says what is wrong and what to do."""

from typing import ClassVar


class SidewaysError(RuntimeError):
    """Something the user can act on. Printed without a traceback; the process exits with `code`."""

    code: ClassVar[int] = 1


class ConfigError(SidewaysError):
    """A setting is unknown, wrong or contradicts another."""

    code = 2


class DataError(SidewaysError):
    """The videos cannot serve the run."""


class PeerError(SidewaysError):
    """Another process of the run died, stalled or said something it must not: from a checkpoint it may go on."""

    code = 3
