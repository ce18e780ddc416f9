"""An exported model in the ONNX format, by torch.onnx, checked with onnxruntime.

    frames, float32 [n, channels, height, width] → output [n, …]

of n independent frames. If blocks remember, the program takes one frame of each of n slots, and their memories:

    frames, begins, memory.BLOCK … → output, next.BLOCK …

`begins`, bool [n], marks the slots in which a clip begins, whatever their memory; next.BLOCK is the memory for the
slots' next frames. A model with skips takes the frames of one clip, in order.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import ConfigError, SidewaysError
from common.models.temporal import Memory, memories, whole_clips
from coordinator.tools.trained_model import WHOLE_CLIPS, Stream, TrainedModel

_ROWS = 2  # of the traced frames
_BATCHES = (1, 5)  # of the check
_TICKS = 12  # of the check of a model that remembers: longer than the gaps of `motion`
_TOLERANCE = 1e-4  # relative to the largest output
Arrays = dict[str, NDArray[Any]]


class Streaming(nn.Module):
    """A model whose memories are inputs and outputs of its forward method.

    Attributes:
        names: of the blocks that remember.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._memories = memories(model)
        self.names = list(self._memories)

    def forward(self, frames: Tensor, begins: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """[slots, …], bool [slots], and the memories → the output and the memories for the next frames."""
        after: dict[str, Tensor] = {}
        for (name, module), state in zip(self._memories.items(), states, strict=True):
            module.instead = partial(_step, module, name, begins, state, after)
        y = self._run(frames)
        return (y, *(after[name] for name in self.names))

    def initial(self, frames: Tensor) -> list[Tensor]:
        """Memories of slots in which clips begin with these frames."""
        found: dict[str, Tensor] = {}
        for name, module in self._memories.items():
            module.instead = partial(_first, module, name, found)
        with torch.no_grad():
            self._run(frames)
        return [found[name] for name in self.names]

    def _run(self, frames: Tensor) -> Tensor:
        try:
            y: Tensor = self.model(frames)
        finally:
            for module in self._memories.values():
                module.instead = None
        return y


def _step(module: Memory, name: str, begins: Tensor, state: Tensor, after: dict[str, Tensor], x: Tensor) -> Tensor:
    anew = begins.view(-1, *[1] * (state.ndim - 1))
    y, after[name] = module.step_uncounted(x, torch.where(anew, module.initial(x), state))
    return y


def _first(module: Memory, name: str, found: dict[str, Tensor], x: Tensor) -> Tensor:
    found[name] = module.initial(x)
    return module.first(x)


def write(trained: TrainedModel, out: Path) -> None:
    """Write a model, with its description as metadata, to `out`, then check it.

    Raises:
        ConfigError: the packages are not installed.
        SidewaysError: torch.onnx cannot convert the model, or the program's outputs are not the model's.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise ConfigError(f'to export to ONNX, install {", ".join(missing)}: pip install "sideways-video[onnx]"')
    import common.torchvision_import  # noqa: F401  # torch.onnx imports torchvision, which must be imported like this

    streams = bool(trained.memories) and not trained.stages
    program = _convert(trained, _streaming(trained) if streams else _plain(trained))
    whole_clips = {WHOLE_CLIPS: "true"} if trained.stages else {}
    program.model.metadata_props.update({**trained.about, **whole_clips})
    program.save(out, external_data=False)
    (_check_stream if streams else _check)(trained, _session(out))


def _plain(trained: TrainedModel) -> dict[str, Any]:
    """The arguments of torch.onnx.export for frames without memory."""
    rows = torch.export.Dim("frames")
    return {
        "model": trained.module,
        "args": (_frames(trained, _ROWS),),
        "dynamic_shapes": ({0: rows},),
        "input_names": ["frames"],
        "output_names": ["output"],
    }


def _streaming(trained: TrainedModel) -> dict[str, Any]:
    """The same for one frame of each slot, with their memories."""
    model, frames, slots = Streaming(trained.module), _frames(trained, _ROWS), torch.export.Dim("slots")
    states = model.initial(frames)
    return {
        "model": model,
        "args": (frames, torch.tensor([True, False]), *states),
        "dynamic_shapes": ({0: slots}, {0: slots}, tuple({0: slots} for _ in states)),
        "input_names": ["frames", "begins", *(f"memory.{name}" for name in model.names)],
        "output_names": ["output", *(f"next.{name}" for name in model.names)],
    }


def _convert(trained: TrainedModel, arguments: dict[str, Any]) -> torch.onnx.ONNXProgram:
    try:
        with warnings.catch_warnings(action="ignore"), whole_clips(trained.module):  # warnings of torch's own code
            program = torch.onnx.export(**arguments, dynamo=True, verbose=False)
    except Exception as error:  # tracing a user's model can raise anything
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise SidewaysError(
            f"torch.onnx cannot export {trained.path}: {reason[0]}. Export a .safetensors or .pt2 file instead"
        ) from error
    assert program is not None
    return program


# ---- the check


def _session(file: Path) -> Callable[[Arrays], list[NDArray[Any]]]:
    """The function that runs the written program."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return partial(session.run, None)


def _check(trained: TrainedModel, run: Callable[[Arrays], list[NDArray[Any]]]) -> None:
    for rows in _BATCHES:
        x = _frames(trained, rows)
        _compare(torch.cat(list(trained.in_order([x]))), run({"frames": x.numpy()})[0])


def _check_stream(trained: TrainedModel, run: Callable[[Arrays], list[NDArray[Any]]]) -> None:
    """Play clips in slots, with another one from the middle on in some of them."""
    names, stream = Streaming(trained.module).names, Stream(trained)
    states = [torch.zeros_like(state) for state in Streaming(trained.module).initial(_frames(trained, 3))]
    memory = {f"memory.{name}": state.numpy() for name, state in zip(names, states, strict=True)}
    for x, clips, begins in _clips(trained):
        y, *after = run({"frames": x.numpy(), "begins": begins, **memory})
        expected = stream.step(clips, x)
        assert expected is not None
        _compare(expected, y)
        memory = dict(zip(memory, after, strict=True))


def _clips(trained: TrainedModel) -> Iterator[tuple[Tensor, NDArray[np.int64], NDArray[np.bool_]]]:
    """Frames of three slots, the number of each slot's clip, and whether it begins."""
    before = np.full(3, -1)
    for tick in range(_TICKS):
        clips = np.array([0, 1 + tick // 7, 10 + tick // 5], np.int64)
        yield _frames(trained, 3), clips, clips != before
        before = clips


def _compare(expected: Tensor, found: NDArray[Any]) -> None:
    """Raise SidewaysError if the outputs differ by more than rounding."""
    difference = float((expected - torch.from_numpy(found)).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise SidewaysError(
            f"the exported program differs from the model by {difference:.3g} in onnxruntime: nothing was written. "
            f"Export a .safetensors or .pt2 file instead. A memory of your own whose `step` depends on the tick's "
            f"number needs `step_uncounted` (docs/models.md)"
        )


def _frames(trained: TrainedModel, rows: int) -> Tensor:
    return torch.randn(rows, trained.data.channels, *trained.data.shape)
