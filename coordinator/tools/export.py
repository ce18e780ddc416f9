"""`sideways export`: writes the whole model of a run to one file, as weights or as a program by torch.export."""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import ConfigError, SidewaysError
from common.models.temporal import memories
from coordinator.run_directory import MODEL
from coordinator.tools.trained_model import ABOUT, WHOLE_CLIPS, TrainedModel, open_model, read_tensors

_BATCHES = (1, 9)  # batch sizes that the check runs; they differ from the traced one
_TRACED = 2
_TOLERANCE = 1e-4  # relative to the largest output


def export(run: Path, out: Path) -> int:
    """Write the model of the run directory `run` to `out`, .safetensors or .pt2, atomically.

    Returns:
        The number of tensors in the model.

    Raises:
        SidewaysError: there is no such run, it has no model yet, the model is damaged, torch.export cannot convert it,
            or `out` cannot be written.
        ConfigError: `out` has another suffix, or the Python file that defines the model is missing.
    """
    model = run / MODEL
    if not model.is_file():
        raise SidewaysError(
            f"{model} does not exist: pass a run directory that has saved its model, such as runs/digits-…"
        )
    tensors, _ = read_tensors(model)
    if out.suffix not in (".safetensors", ".pt2"):
        raise ConfigError(f"{out}: choose a name that ends in .safetensors (weights) or .pt2 (torch.export program)")
    part = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        if out.suffix == ".pt2":
            _write_program(open_model(run), part)
        else:
            shutil.copyfile(model, part)
        os.replace(part, out)
    except OSError as error:
        raise SidewaysError(f"cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return len(tensors)


def _write_program(trained: TrainedModel, out: Path) -> None:
    """Write a program and the model's description to `out`, then check it. Raises SidewaysError.

    The program maps normalised frames, float32 [n, channels, height, width] for any n, to the model's output. If the
    model remembers or has skips, they are the frames of one clip, in order.
    """
    example = torch.rand(_TRACED, trained.data.channels, *trained.data.shape)
    remembering = memories(trained.module).values()
    for module in remembering:
        module.rows_are_a_clip = True
    try:
        program = torch.export.export(trained.module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # tracing a user's model can raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SidewaysError(
            f"torch.export cannot export {trained.path}: {reason[0]}. Export a .safetensors file instead"
        ) from error
    finally:
        for module in remembering:
            module.rows_are_a_clip = False
    about = {**trained.about, **({WHOLE_CLIPS: "true"} if remembering or trained.stages else {})}
    torch.export.save(program, out, extra_files={ABOUT: json.dumps(about)})
    _compare(trained, open_model(out).module)


def _compare(trained: TrainedModel, program: nn.Module) -> None:
    """Raise SidewaysError if the written program and the model give different outputs."""
    for batch in _BATCHES:
        x = torch.randn(batch, trained.data.channels, *trained.data.shape)
        with torch.no_grad():
            expected, found = torch.cat(list(trained.in_order([x]))), program(x)
        if not _close(expected, found):
            raise SidewaysError(
                f"the exported program differs from the model by {float((expected - found).abs().max()):.3g} on "
                f"{batch} frame(s): nothing was written. Export a .safetensors file instead, and please report this"
            )


def _close(expected: Tensor, found: Tensor) -> bool:
    return torch.allclose(expected, found, rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max()))
