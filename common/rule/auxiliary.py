"""Auxiliary losses: a linear layer on the output of each stage but the top, which trains it without delay.

    g_i(k) += w(k) · ∂ loss_i(y_i(k)) / ∂y_i

The label comes with its row, so the gradient is of the frame that the stage holds. The weight w falls to zero during
the training, and the delayed gradient of the model's own loss remains (related: Belilovsky et al., ICML 2020; deep
supervision, Lee et al., AISTATS 2015). The classifiers are in checkpoints, but no part of the model.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Config
from common.rule.loss import RowLoss
from common.rule.packet import Packet
from common.rule.pooling import channels_of, pool_to
from common.rule.tasks import task_of
from common.rule.updater import Updater

_VECTORS = 0, 0  # a shape of as many dimensions


class Auxiliary:
    """A linear classifier on the pooled output of a stage, with an optimiser of its own.

    Attributes:
        updater: of the classifier, whose gradients have no mismatch.
    """

    def __init__(self, config: Config, features: int, classes: int, total_ticks: int, device: torch.device) -> None:
        """`features`: channels of the stage's output; `total_ticks`: ticks of the whole training."""
        self._rule, self._total_ticks = config.rule, total_ticks
        self.classifier = nn.Linear(features, classes, device=device)
        nn.init.zeros_(self.classifier.weight)  # it passes no gradient on until it has learned something
        nn.init.zeros_(self.classifier.bias)
        settings = config.optimiser.model_copy(update={"ema": 0.0, "orthogonal": 0.0})
        self.updater = Updater(self.classifier, settings, config.rule.every, 0, total_ticks)
        self._loss = RowLoss(task_of(config, classes))

    def weight(self, tick: int) -> float:
        """w after `tick` updates of the stage: it falls linearly from rule.auxiliary to zero."""
        faded = tick / (self._rule.auxiliary_until * max(1, self._total_ticks))
        return self._rule.auxiliary * max(0.0, 1.0 - faded)

    def loss(self, y: Tensor, held: Packet, weight: float) -> Tensor:
        """w(k) · loss_i, a 0-d tensor, for the output y, [rows, …], of the frames in `held`."""
        logits = F.linear(pool_to(_VECTORS, y.float()), self.classifier.weight, self.classifier.bias)
        return weight * self._loss(logits, held).mean

    def update(self) -> None:
        """Update the classifier. Once its loss has faded it has no gradients, and only counts."""
        self.updater.update(missing=self.classifier.bias.grad is None)

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """Everything that the next tick depends on, but for the counters, which are the stage's."""
        own = {f"model.{name}": value for name, value in self.classifier.state_dict().items()}
        return {**own, **self.updater.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave; without gradients, they stay as they are."""
        self.classifier.load_state_dict({name: state[f"model.{name}"] for name in self.classifier.state_dict()})
        self.updater.load(state)


def auxiliary_of(
    config: Config,
    stage: int,
    output: Sequence[int],
    classes: int,
    total_ticks: int,
    device: torch.device,
) -> Auxiliary | None:
    """The auxiliary loss of a stage whose output has this shape; None for the top stage, or if the run has none."""
    if not config.rule.auxiliary or stage == config.stages - 1:
        return None
    return Auxiliary(config, channels_of(output), classes, total_ticks, device)
