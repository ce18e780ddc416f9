"""The version of this package, for pip, Python and the command line."""

__version__ = "1.0.0"
