"""Samples this stage's pseudo-gradient at one frame, for comparison with that of backpropagation.

The coordinator chooses a frame. At the tick at which the stage holds it, the probe copies the weights and the
pseudo-gradient, and measures the change of the input since the previous frame. At other ticks it costs two comparisons.
"""

from threading import Event

import torch
from torch import Tensor

from common.messages.stage_calls import GradientSample
from common.rule.packet import Packet
from common.rule.stage import Stage

_NONE = -9  # matches no frame in `sees`


class StageProbe:
    """Samples the frame that the coordinator asks for."""

    def __init__(self) -> None:
        self._frame = _NONE
        self._done = Event()
        self._sample: GradientSample | None = None
        self._before: tuple[Tensor, Tensor] | None = None  # input and clips of the previous frame
        self._weights: dict[str, Tensor] = {}
        self._memories: dict[str, Tensor] = {}
        self._accumulated: dict[str, Tensor] = {}

    # ---- called in RPC threads

    def ask(self, frame: int) -> None:
        """Request a sample of a frame that no stage has reached yet."""
        self._done.clear()
        self._sample, self._frame = None, frame

    def answer(self, seconds: float) -> GradientSample | None:
        """Wait at most `seconds` for the sample; None if there is none by then."""
        self._done.wait(seconds)
        return self._sample

    # ---- the tick loop

    def sees(self, frame: int) -> bool:
        """Whether this frame, or the next, is to be sampled."""
        return frame == self._frame or frame == self._frame - 1

    def before(self, stage: Stage, x: Packet) -> None:
        """Copy weights and accumulated gradients. Call before the forward pass of a frame that `sees` accepts."""
        if x.frame == self._frame:
            named = list(stage.blocks.named_parameters())
            self._weights = {name: value.detach().to("cpu", copy=True) for name, value in named}
            self._memories = {name: value.to("cpu", copy=True) for name, value in stage.memories.state().items()}
            self._accumulated = {name: value.grad.clone() for name, value in named if value.grad is not None}

    def after(self, stage: Stage, x: Packet) -> None:
        """Take the sample. Call after the backward pass of a frame that `sees` accepts, before the update."""
        if x.frame == self._frame - 1:
            self._before = x.tensor.detach().clone(), torch.from_numpy(x.clips.copy())
            return
        gradients = {}
        for name, parameter in stage.blocks.named_parameters():
            if parameter.grad is not None:
                own = parameter.grad - self._accumulated[name] if name in self._accumulated else parameter.grad
                gradients[name] = own.to("cpu", copy=True)
        self._sample = GradientSample(self._weights, gradients, self._smoothness(x), self._memories)
        self.end()

    def end(self) -> None:
        """End the sampling, and wake `answer`."""
        self._frame, self._before = _NONE, None
        self._done.set()

    def _smoothness(self, x: Packet) -> float | None:
        if self._before is None:
            return None
        earlier, clips = self._before
        same_clip = (clips == torch.from_numpy(x.clips)).to(x.tensor.device)
        now, then = x.tensor.detach().flatten(1).float()[same_clip], earlier.flatten(1).float()[same_clip]
        change = (now - then).norm(dim=1) / now.norm(dim=1).clamp_min(1e-12)
        return float(change.mean()) if len(change) else None
