"""Copies some rows of the top stage's output for one frame, for the coordinator's page.

The coordinator asks for a frame that has not come yet. At other ticks the sampler costs one comparison.
"""

import sys

import torch
from torch import Tensor

from common.messages.stage_calls import OutputSample

_NEVER = sys.maxsize


class OutputSampler:
    """Copies the output for the frame that the coordinator asks for.

    Attributes:
        due: the frame from which on `take` is to be called; beyond all frames if nothing is asked for.
        sample: the last copy; None until there is one.
    """

    def __init__(self) -> None:
        self.due = _NEVER
        self.sample: OutputSample | None = None
        self._rows = self._every = 1

    def ask(self, frame: int, rows: int, every: int) -> None:
        """Request a copy; called in an RPC thread. See `StageCalls.sample_output`."""
        self._rows, self._every, self.sample = rows, every, None
        self.due = frame

    def take(self, frame: int, y: Tensor) -> None:
        """Copy from `y`, the output for a frame that is due. Called by the tick loop."""
        self.due = _NEVER
        rows = y.detach()[: self._rows]
        if rows.dim() == 4:
            rows = rows[..., :: self._every, :: self._every]
        copied = torch.empty(rows.shape).copy_(rows)  # on the CPU, in memory of its own
        self.sample = OutputSample(frame, copied)
