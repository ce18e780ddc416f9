"""Files that are whole at any time: another process, or a later attempt, reads the old one or the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file by one that is written to the path that this gives. If writing fails, it stays as it was.

    Raises:
        OSError: it cannot be replaced.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
