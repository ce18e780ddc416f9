"""Gradients that turn to what is new: successive frames are alike, so are their gradients, and an update that follows
each of them goes the same way again and again (Han et al., Learning from Streaming Video with Orthogonal Gradients,
CVPR 2025).
"""

from collections.abc import Sequence

import torch
from torch import nn

_TINY = 1e-20  # a mean that is zero has no direction


class Orthogonal:
    """Per parameter, with g the gradient and m the running mean of those before:

    g ← g - m ⟨g, m⟩ / ⟨m, m⟩        m ← decay · m + (1 - decay) · g as it was

    Attributes:
        means: m of each parameter, in its shape.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.means = [torch.zeros_like(value, requires_grad=False) for value in parameters]
        self._parameters, self._decay = parameters, decay
        self._spare = [torch.empty_like(mean) for mean in self.means]

    def turn(self) -> None:
        """Change .grad in place."""
        for parameter, mean, spare in zip(self._parameters, self.means, self._spare, strict=True):
            gradient = parameter.grad
            if gradient is not None:
                share = torch.mul(gradient, mean, out=spare).sum()
                share /= torch.square(mean, out=spare).sum().clamp_min_(_TINY)
                torch.mul(mean, share, out=spare)
                mean.lerp_(gradient, 1 - self._decay)
                gradient.sub_(spare)
