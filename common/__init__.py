"""Code shared by the coordinator and the stage workers. Imports neither of them."""

__version__ = "1.0.0"  # of the whole package, for pip, Python and the command line
