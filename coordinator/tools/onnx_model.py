"""An exported .onnx file as a model, run by onnxruntime, with its memories as inputs and outputs (onnx_program.py)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import ConfigError, SidewaysError
from common.rule.memories import Memories

_MEMORY, _NEXT = "memory.", "next."
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxMemories(Memories):
    """What the rows of a program remember. Falsy if it remembers nothing."""

    def __init__(self, shapes: dict[str, tuple[list[int], type[np.generic]]]) -> None:
        """`shapes`: of the memories of one row, with their types, by name."""
        super().__init__(nn.Module())
        self._shapes = shapes
        self._before: NDArray[np.int64] | None = None
        self._states: dict[str, NDArray[Any]] = {}
        self._begins: NDArray[np.bool_] | None = None
        self._kept: tuple[NDArray[np.int64] | None, dict[str, NDArray[Any]]] = None, {}

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def begin(self, clips: NDArray[np.int64], frame: int, device: torch.device, part: int = 0) -> None:
        """Announce a frame batch: see `Memories.begin`."""
        self._begins = np.ones(len(clips), bool) if self._before is None else clips != self._before
        self._before = clips.copy()

    @property
    def announced(self) -> bool:
        """Whether the next frames go on with what is remembered."""
        return self._begins is not None

    def inputs(self, rows: int) -> dict[str, NDArray[Any]]:
        """Those of the program: of frames that were not announced each is the first of a clip."""
        begins, self._begins = self._begins, None
        known = self._states if begins is not None else {}
        empty: dict[str, NDArray[Any]] = {
            name: np.zeros((rows, *shape), kind) for name, (shape, kind) in self._shapes.items()
        }
        return {"begins": np.ones(rows, bool) if begins is None else begins, **empty, **known}

    def keep(self, states: dict[str, NDArray[Any]]) -> None:
        """The memories for the next frames."""
        self._states = states

    def clear(self) -> None:
        """Forget everything."""
        self._before, self._states, self._begins = None, {}, None

    def set_aside(self) -> None:
        """Begin with empty memories, and keep the present ones for `put_back`."""
        self._kept = self._before, self._states
        self.clear()

    def put_back(self) -> None:
        """Go on with the memories that were set aside."""
        self._before, self._states = self._kept


class OnnxModel(nn.Module):
    """A program as a module: float32 [n, channels, height, width] → its output, on the CPU.

    Attributes:
        about: the file's metadata.
        memories: of its blocks.
    """

    def __init__(self, file: Path) -> None:
        """Raises ConfigError if onnxruntime is not installed, SidewaysError if it cannot read the file."""
        super().__init__()
        if find_spec("onnxruntime") is None:
            raise ConfigError(f'to open {file}, install onnxruntime: pip install "sideways-video[onnx]"')
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises one class for each kind of failure
            raise SidewaysError(f"{file} is not a program that onnxruntime can load ({error})") from error
        self.about: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        states = [each for each in self._session.get_inputs() if each.name.startswith(_MEMORY)]
        if unknown := {each.type for each in states} - _TYPES.keys():
            raise SidewaysError(
                f"{file} remembers values of type {min(unknown)}: use another type in the model's memory"
            )
        self.memories = OnnxMemories({each.name: (each.shape[1:], _TYPES[each.type]) for each in states})

    def forward(self, x: Tensor) -> Tensor:
        """Run the program, and keep what it remembers if the frames were announced."""
        if not self.memories:
            return torch.from_numpy(self._session.run(["output"], {"frames": x.numpy()})[0])
        announced, inputs = self.memories.announced, self.memories.inputs(len(x))
        names = [name for name in inputs if name.startswith(_MEMORY)]
        outputs = ["output", *(name.replace(_MEMORY, _NEXT, 1) for name in names)]
        y, *after = self._session.run(outputs, {"frames": x.numpy(), **inputs})
        if announced:
            self.memories.keep(dict(zip(names, after, strict=True)))
        return torch.from_numpy(y)
