"""The loss of a run: the task's usual one, another by its name, or the user's own."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError
from common.models.user_code import is_reference, load_attribute
from common.rule.cross_entropy import cross_entropy_of

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of some rows → their mean loss, a 0-d tensor

_NAMED: dict[str, Loss] = {
    "bce": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.smooth_l1_loss,
}


def loss_of(config: Config) -> Loss:
    """The loss of a run, whose class weights are known. Raises ConfigError if the user's own cannot be loaded."""
    if is_reference(config.loss_name):
        return own_loss(config.loss_name)
    return _NAMED[config.loss_name] if config.loss_name in _NAMED else cross_entropy_of(config)


def own_loss(name: str) -> Loss:
    """The user's function of outputs and targets, which returns a loss for each row, [rows], or their mean, 0-d."""
    found = load_attribute(name, "loss")
    function: Callable[[Tensor, Tensor], Any] = found() if isinstance(found, type) else found

    def loss(y: Tensor, target: Tensor) -> Tensor:
        value = function(y, target)
        if not isinstance(value, Tensor) or (value.ndim and value.shape != y.shape[:1]):
            shown = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"loss = {name!r} returned {shown}: it must return a tensor, the loss of each of the {len(y)} rows, or "
                "their mean"
            )
        return value.mean() if value.ndim else value

    return loss
