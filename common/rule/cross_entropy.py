"""The cross entropy of logits with labels, with label smoothing and a weight for each class."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config.settings import Config


class CrossEntropy:
    """The mean over rows. The weights of the rows' classes do not enter its divisor, so micro-batches add up."""

    def __init__(self, smoothing: float = 0.0, weights: Sequence[float] | None = None) -> None:
        self._smoothing = smoothing
        self._weights = None if weights is None else torch.tensor(weights)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a 0-d tensor, of logits, float [rows, classes], and labels, int64 [rows]."""
        if self._weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        if self._weights.device != logits.device or len(self._weights) < logits.shape[1]:
            surplus = logits.shape[1] - len(self._weights)  # outputs that stand for no class
            self._weights = F.pad(self._weights, (0, surplus), value=1.0).to(logits.device)
        total = F.cross_entropy(logits, labels, self._weights, label_smoothing=self._smoothing, reduction="sum")
        return total / len(labels)


def cross_entropy_of(config: Config) -> CrossEntropy:
    """The cross entropy of a run, whose class weights are known."""
    assert config.class_weights != "balanced", "the coordinator determines them from the clips"
    return CrossEntropy(config.label_smoothing, config.class_weights)
