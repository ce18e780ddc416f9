"""The memories of a stage's blocks: which rows begin anew, what training and evaluation keep apart, checkpoints.

The algorithms with exact gradients run a batch in micro-batches: each has its rows of the memory.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.models.temporal import TickInfo, memories
from common.rule.host_values import HostValues
from common.rule.memory_format import arranged

_CLIPS = "@clips"  # no module can have this name


@dataclass(frozen=True)
class _Rows:
    """What the rows of a micro-batch remember.

    Attributes:
        clips: of the frame before, int64 [rows].
        states: by module name.
    """

    clips: NDArray[np.int64]
    states: dict[str, Tensor]


class Memories:
    """All modules with a memory in a stage. Falsy if there are none."""

    def __init__(self, blocks: nn.Module, channels_last: bool = False) -> None:
        """`channels_last`: the order of maps in memory."""
        self._channels_last = channels_last
        self._modules = memories(blocks)
        self._masks: dict[int, HostValues] = {}  # by micro-batch
        self._part = 0  # the micro-batch whose rows are in the modules
        self._clips: NDArray[np.int64] | None = None  # of its frame before; None: the memory is empty
        self._others: dict[int, _Rows] = {}  # of the other micro-batches
        self._aside: tuple[int, dict[int, _Rows]] = 0, {}

    def __bool__(self) -> bool:
        return bool(self._modules)

    @property
    def nbytes(self) -> int:
        """Bytes that are remembered now."""
        return sum(state.nbytes for rows in self._all().values() for state in rows.states.values())

    def begin(self, clips: NDArray[np.int64], frame: int, device: torch.device, part: int = 0) -> None:
        """Announce the forward pass of a frame batch. Rows of another clip than before begin anew.

        Args:
            clips: clip id of each row, int64 [rows].
            frame: its number.
            device: that computes.
            part: number of the micro-batch.
        """
        if part != self._part:
            self._switch(part)
        if self._clips is None:
            self._forget()
        info = self._info(clips, frame, device)
        for module in self._modules.values():
            if module.state is not None and module.state.device != device:  # from a checkpoint
                module.state = module.state.to(device)
            module.begin(info)
        self._clips = clips.copy()

    def _info(self, clips: NDArray[np.int64], frame: int, device: torch.device) -> TickInfo:
        if self._clips is None:  # an empty memory begins anew in every row by itself
            return TickInfo(frame, None)
        fresh = clips != self._clips
        rows = np.flatnonzero(fresh).tolist()
        if not rows:
            return TickInfo(frame, None)
        return TickInfo(frame, self._masks.setdefault(self._part, HostValues()).on(device, fresh), rows)

    def _forget(self) -> None:
        self._clips = None
        for module in self._modules.values():
            module.state = None

    def clear(self) -> None:
        """Forget everything."""
        self._forget()
        self._part, self._others = 0, {}

    def set_aside(self) -> None:
        """Begin with empty memories, and keep the present ones for `put_back`."""
        self._aside = self._part, self._all()
        self.clear()

    def put_back(self) -> None:
        """Go on with the memories that were set aside."""
        self._part, self._others = self._aside
        self._take()

    # ---- micro-batches

    def _all(self) -> dict[int, _Rows]:
        """The rows of all micro-batches that remember anything, in order."""
        states = {name: module.state for name, module in self._modules.items() if module.state is not None}
        own = {self._part: _Rows(self._clips, states)} if self._clips is not None else {}
        return dict(sorted({**self._others, **own}.items()))

    def _switch(self, part: int) -> None:
        self._others, self._part = self._all(), part
        self._take()

    def _take(self) -> None:
        """Put the rows of the present micro-batch into the modules."""
        rows = self._others.pop(self._part, None)
        self._clips = rows.clips if rows is not None else None
        for name, module in self._modules.items():
            module.state = rows.states.get(name) if rows is not None else None

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """The memories by module name, and the clips that they are of; empty if nothing is remembered."""
        parts = list(self._all().values())
        if not parts or not self._modules:
            return {}
        found = {name: torch.cat([rows.states[name] for rows in parts]) for name in parts[0].states}
        return {**found, _CLIPS: torch.from_numpy(np.concatenate([rows.clips for rows in parts]))}

    def load(self, state: dict[str, Tensor], parts: int = 1) -> None:
        """Restore what `state` gave, of so many micro-batches.

        Forget everything if there is nothing, or it is of other blocks.
        """
        self.clear()
        if state.keys() != {_CLIPS, *self._modules}:
            return
        if not all(module.fits(state[name]) for name, module in self._modules.items()):
            return
        clips = np.split(state[_CLIPS].numpy(), parts)
        rows = {name: state[name].chunk(parts) for name in self._modules}
        for part in range(parts):
            own = {name: arranged(chunks[part].clone(), self._channels_last) for name, chunks in rows.items()}
            self._others[part] = _Rows(clips[part].copy(), own)
        self._take()
