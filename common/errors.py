"""Errors meant for the person at the terminal: a sentence that says what is wrong and what to do."""


class SidewaysError(RuntimeError):
    """Something the user can act on. Printed without a traceback; the process exits with 1."""


class ConfigError(SidewaysError):
    """A setting is unknown, wrong or contradicts another. The process exits with 2."""


class DataError(SidewaysError):
    """The videos cannot serve the run."""


class PeerError(SidewaysError):
    """Another process of the run died, stalled or said something it must not."""
