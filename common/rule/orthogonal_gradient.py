"""Orthogonal gradients (Han et al., Learning from Streaming Video with Orthogonal Gradients, CVPR 2025).

Successive frames are similar and so are their gradients, so updates would repeat the same direction. The component
along the running mean of earlier gradients is therefore removed.
"""

from collections.abc import Sequence

import torch
from torch import nn

_TINY = 1e-20  # avoids a division by zero while the mean is zero


class Orthogonal:
    """For each parameter, with g the gradient and m the running mean of earlier gradients:

    g ← g - m ⟨g, m⟩ / ⟨m, m⟩        m ← decay · m + (1 - decay) · g (the original g)

    Attributes:
        means: m of each parameter, of the same shape.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.means = [torch.zeros_like(value, requires_grad=False) for value in parameters]
        self._parameters, self._decay = parameters, decay
        self._scratch = [torch.empty_like(mean) for mean in self.means]

    def project(self) -> None:
        """Project every .grad in place, and update the means."""
        for parameter, mean, spare in zip(self._parameters, self.means, self._scratch, strict=True):
            gradient = parameter.grad
            if gradient is not None:
                share = torch.mul(gradient, mean, out=spare).sum()
                share /= torch.square(mean, out=spare).sum().clamp_min_(_TINY)
                torch.mul(mean, share, out=spare)
                mean.lerp_(gradient, 1 - self._decay)
                gradient.sub_(spare)
