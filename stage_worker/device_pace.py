"""Keeps the host at most two ticks ahead of the GPU.

Nothing in a tick makes the host wait for the GPU, so it could run ahead without end: errors would surface ticks later,
and memory that the GPU is still to read would be reused. Waiting for the end of the tick before the last costs nothing
while the GPU keeps up.

The wait is a loop, as CUDA's own knows no deadline: the GPU may wait for a neighbour's that will never signal any more.
"""

import time

import torch

from common.errors import PeerError

AHEAD = 2  # ticks
_POLL = 1e-4  # seconds: short beside a tick for which the host waits


class DevicePace:
    """A tick loop's pace on a GPU; does nothing on the CPU."""

    def __init__(self, device: torch.device, stage: int, deadline: float) -> None:
        """`stage`: for messages; `deadline`: of a wait, in seconds."""
        self._ends = [torch.cuda.Event() for _ in range(AHEAD)] if device.type == "cuda" else []
        self._stage, self._deadline = stage, deadline

    def begin(self, tick: int) -> None:
        """Wait until the GPU has done the tick `AHEAD` before this one. Raises PeerError after the deadline."""
        if self._ends and not self._ends[tick % AHEAD].query():
            self._wait(tick)

    def _wait(self, tick: int) -> None:
        end = time.monotonic() + self._deadline
        while not self._ends[tick % AHEAD].query():
            if time.monotonic() > end:
                raise PeerError(
                    f"stage {self._stage}, tick {tick}: the GPU has not done tick {tick - AHEAD} within "
                    f"{self._deadline:g} s: a neighbour is lost or stuck. See the other stages' errors, then restart "
                    "the run"
                )
            time.sleep(_POLL)

    def end(self, tick: int) -> None:
        """The host has given the GPU all of this tick."""
        if self._ends:
            self._ends[tick % AHEAD].record()
