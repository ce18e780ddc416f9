"""`sideways export`: the whole model of a run, under its own names, in one safetensors file."""

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.errors import SidewaysError
from coordinator.monitor.record import MODEL


def export(run: Path, out: Path) -> int:
    """Copy the model of the run directory `run` to `out`, atomically. Returns the number of tensors.

    Raises:
        SidewaysError: there is no such run, it has no model yet, the model is damaged, or `out` cannot be written.
    """
    model = run / MODEL
    if not model.is_file():
        raise SidewaysError(f"{model} does not exist: name a run directory, such as runs/digits-…, that has ended")
    try:
        with safe_open(model, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                file.get_tensor(name)
    except SafetensorError as error:
        raise SidewaysError(f"{model} is damaged ({error}): train again") from error
    part = out.with_name(out.name + ".part")
    try:
        shutil.copyfile(model, part)
        os.replace(part, out)
    except OSError as error:
        raise SidewaysError(f"cannot write {out}: {error.strerror}") from error
    return len(names)
