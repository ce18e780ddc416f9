"""Copies the trace that a run on this host has written."""

import gzip
import shutil
import socket
from pathlib import Path

from common.errors import ConfigError, SidewaysError
from common.run_registry.records import Owner

TRACE = "trace.json.gz"  # in the run directory; each trace replaces the one before


def check(out: Path) -> None:
    """Raise ConfigError if `out` cannot be the name of the copy."""
    if not out.name.endswith((".json", ".json.gz")):
        raise ConfigError(f"--out {out}: name a file that ends in .json or .json.gz")
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError(f"--out {out}: {'that is' if out.is_dir() else f'{out.parent} is not'} a folder")


def copy(owner: Owner, out: Path) -> None:
    """Copy the run's newest trace to `out`, decompressed unless `out` ends in .gz. Raises SidewaysError."""
    path = Path(owner.directory) / TRACE
    if owner.host != socket.gethostname():
        raise SidewaysError(f"the trace is on {owner.host}, in {path}: copy it from there")
    try:
        with open(path, "rb") if out.suffix == ".gz" else gzip.open(path) as source, open(out, "wb") as copied:
            shutil.copyfileobj(source, copied)
    except OSError as error:
        raise SidewaysError(f"{path} cannot be copied to {out}: {error}") from error
