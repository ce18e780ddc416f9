"""`sideways export`: writes the whole model of a run to a file: weights, or a program by torch.export or for ONNX."""

import json
import os
import shutil
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from common.errors import ConfigError, SidewaysError, first_line
from common.models.temporal import whole_clips
from coordinator.run_directory import model_of
from coordinator.tools import onnx_program
from coordinator.tools.trained_model import ABOUT, WHOLE_CLIPS, TrainedModel, open_model, read_tensors

Format = Literal["safetensors", "pt2", "onnx"]
_BATCHES = (1, 9)  # batch sizes that the check runs; they differ from the traced one
_TRACED = 2
_TOLERANCE = 1e-4  # relative to the largest output


def export(run: Path, out: Path, kind: Format | None = None, best: bool = False) -> int:
    """Write the model of the run directory `run` to `out`, atomically.

    Args:
        best: that of the best evaluation, not the newest.
        kind: of the file; by default its suffix.

    Returns:
        The number of tensors in the model.

    Raises:
        SidewaysError: there is no such run, it has no model yet, the model is damaged, torch cannot convert it, or
            `out` cannot be written.
        ConfigError: `out` has another suffix, the Python file that defines the model is missing, or a package is.
    """
    model = model_of(run, best)
    tensors, _ = read_tensors(model)
    suffix = f".{kind}" if kind else out.suffix
    if suffix.removeprefix(".") not in get_args(Format):
        raise ConfigError(
            f"{out}: choose a name that ends in .safetensors (weights), .pt2 (torch.export program) or .onnx, or give "
            f"--format"
        )
    part = out.with_name(f".{out.name}.part{suffix}")
    try:
        _write(model, part)
        os.replace(part, out)
    except OSError as error:
        raise SidewaysError(f"cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return len(tensors)


def _write(model: Path, file: Path) -> None:
    if file.suffix == ".safetensors":
        shutil.copyfile(model, file)
    elif file.suffix == ".pt2":
        _write_program(open_model(model), file)
    else:
        onnx_program.write(open_model(model), file)


def _write_program(trained: TrainedModel, out: Path) -> None:
    """Write a program and the model's description to `out`, then check it. Raises SidewaysError.

    The program maps normalised frames, float32 [n, channels, height, width] for any n, to the model's output. If the
    model remembers or has skips, they are the frames of one clip, in order.
    """
    example = torch.rand(_TRACED, trained.data.channels, *trained.data.shape)
    try:
        with whole_clips(trained.module):
            program = torch.export.export(trained.module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # tracing a user's model can raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SidewaysError(
            f"torch.export cannot export {trained.path}: {reason[0]}. Export a .safetensors file instead"
        ) from error
    about = {**trained.about, **({WHOLE_CLIPS: "true"} if trained.memories or trained.stages else {})}
    try:
        torch.export.save(program, out, extra_files={ABOUT: json.dumps(about)})
    except RuntimeError as error:  # what torch makes of a folder that is not there, or a full disk
        raise SidewaysError(f"cannot write {out.parent}: {first_line(error)}") from error
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
