"""Samples this stage's pseudo-gradient at one frame, for comparison with backpropagation's.

The coordinator names a frame. At the tick in which the stage holds it, weights, pseudo-gradient and the change of its
input since the frame before are copied; at all other ticks the probe costs one comparison of numbers.
"""

from threading import Event

import torch
from torch import Tensor

from common.messages.stage_calls import GradientSample
from common.rule.packet import Packet
from common.rule.stage import Stage

_NONE = -9


class StageProbe:
    """Samples the frame that the coordinator asks for."""

    def __init__(self) -> None:
        self._frame = _NONE
        self._done = Event()
        self._sample: GradientSample | None = None
        self._before: tuple[Tensor, Tensor] | None = None  # the frame before: input, clips
        self._weights: dict[str, Tensor] = {}
        self._accumulated: dict[str, Tensor] = {}

    # ---- called in RPC threads

    def ask(self, frame: int) -> None:
        """Sample a frame that no stage has reached yet."""
        self._done.clear()
        self._sample, self._frame = None, frame

    def answer(self, seconds: float) -> GradientSample | None:
        """The sample; None if the training ended before, or `seconds` have passed."""
        self._done.wait(seconds)
        return self._sample

    # ---- the tick loop

    def sees(self, frame: int) -> bool:
        """Whether this frame, or the next, is the one asked for."""
        return frame == self._frame or frame == self._frame - 1

    def before(self, stage: Stage, x: Packet) -> None:
        """Before the forward pass."""
        if x.frame == self._frame:
            named = list(stage.blocks.named_parameters())
            self._weights = {name: value.detach().to("cpu", copy=True) for name, value in named}
            self._accumulated = {name: value.grad.clone() for name, value in named if value.grad is not None}

    def after(self, stage: Stage, x: Packet) -> None:
        """After the backward pass, before the update."""
        if x.frame == self._frame - 1:
            self._before = x.tensor.detach().clone(), torch.from_numpy(x.clips.copy())
            return
        gradients = {}
        for name, parameter in stage.blocks.named_parameters():
            if parameter.grad is not None:
                own = parameter.grad - self._accumulated[name] if name in self._accumulated else parameter.grad
                gradients[name] = own.to("cpu", copy=True)
        self._sample = GradientSample(self._weights, gradients, self._smoothness(x))
        self.end()

    def end(self) -> None:
        """End the sampling."""
        self._frame, self._before = _NONE, None
        self._done.set()

    def _smoothness(self, x: Packet) -> float | None:
        if self._before is None:
            return None
        earlier, clips = self._before
        same = (clips == torch.from_numpy(x.clips)).to(x.tensor.device)
        now, then = x.tensor.detach().flatten(1).float()[same], earlier.flatten(1).float()[same]
        change = (now - then).norm(dim=1) / now.norm(dim=1).clamp_min(1e-12)
        return float(change.mean()) if len(change) else None
