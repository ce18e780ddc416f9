"""The memories of a stage's blocks: which rows begin anew, what training and evaluation keep apart, checkpoints."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.models.temporal import TickInfo, memories
from common.rule.host_values import HostValues

_CLIPS = "@clips"  # no module can have this name


class Memories:
    """All modules with a memory in a stage. Falsy if there are none."""

    def __init__(self, blocks: nn.Module) -> None:
        self._modules = memories(blocks)
        self._clips: NDArray[np.int64] | None = None  # of the frame before; None: the memory is empty
        self._masks = HostValues()
        self._aside: tuple[NDArray[np.int64] | None, dict[str, Tensor | None]] = None, {}

    def __bool__(self) -> bool:
        return bool(self._modules)

    @property
    def nbytes(self) -> int:
        """Bytes that are remembered now."""
        return sum(module.state.nbytes for module in self._modules.values() if module.state is not None)

    def begin(self, clips: NDArray[np.int64], frame: int, device: torch.device) -> None:
        """Announce the forward pass of a frame batch. Rows of another clip than before begin anew.

        Args:
            clips: clip id of each row, int64 [rows].
            frame: its number.
            device: that computes.
        """
        if self._clips is None:
            self.clear()
        info = TickInfo(frame, self._fresh(clips, device))
        for module in self._modules.values():
            if module.state is not None and module.state.device != device:  # from a checkpoint
                module.state = module.state.to(device)
            module.begin(info)
        self._clips = clips.copy()

    def _fresh(self, clips: NDArray[np.int64], device: torch.device) -> Tensor | None:
        if self._clips is None:
            return None  # an empty memory begins anew in every row by itself
        fresh = clips != self._clips
        return self._masks.on(device, fresh) if fresh.any() else None

    def clear(self) -> None:
        """Forget everything."""
        self._clips = None
        for module in self._modules.values():
            module.state = None

    def set_aside(self) -> None:
        """Begin with empty memories, and keep the present ones for `put_back`."""
        self._aside = self._clips, {name: module.state for name, module in self._modules.items()}
        self.clear()

    def put_back(self) -> None:
        """Go on with the memories that were set aside."""
        self._clips, states = self._aside
        for name, module in self._modules.items():
            module.state = states[name]

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """The memories by module name, and the clips that they are of; empty if nothing is remembered."""
        if self._clips is None or not self._modules:
            return {}
        found = {name: module.state for name, module in self._modules.items() if module.state is not None}
        return {**found, _CLIPS: torch.from_numpy(self._clips.copy())}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave. Forget everything if there is nothing, or it is of other blocks."""
        self.clear()
        if state.keys() != {_CLIPS, *self._modules}:
            return
        if not all(module.fits(state[name]) for name, module in self._modules.items()):
            return
        self._clips = state[_CLIPS].numpy().copy()
        for name, module in self._modules.items():
            module.state = state[name].clone()
