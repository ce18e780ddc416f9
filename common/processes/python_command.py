"""The command line that runs one of our programs in a process of its own."""

import sys


def python_command(module: str, *arguments: str) -> list[str]:
    """Run a module with the same Python.

    Without -P the working directory would come first on its path, where the user may have packages of our names.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
