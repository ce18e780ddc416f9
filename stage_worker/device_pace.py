"""Keeps the host at most two ticks ahead of the GPU.

Nothing in a tick makes the host wait for the GPU, so it could run ahead without end: errors would surface ticks later,
and memory that the GPU is still to read would be reused. Waiting for the end of the tick before the last costs nothing
while the GPU keeps up.
"""

import torch

AHEAD = 2  # ticks


class DevicePace:
    """A tick loop's pace on a GPU; does nothing on the CPU."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._ends = [torch.cuda.Event(blocking=True) for _ in range(AHEAD)] if on_gpu else []

    def begin(self, tick: int) -> None:
        """Wait until the GPU has done the tick `AHEAD` before this one."""
        if self._ends:
            self._ends[tick % AHEAD].synchronize()

    def end(self, tick: int) -> None:
        """The host has given the GPU all of this tick."""
        if self._ends:
            self._ends[tick % AHEAD].record()
