"""Detects divergence: a loss that is not finite or far too high. The weights are then useless."""

import math

from common.config.settings import Config, Recovery
from common.errors import PeerError, SidewaysError
from common.messages.stage_report import Progress
from common.processes.caller import wording


def has_diverged(report: Progress, recovery: Recovery) -> bool:
    """Whether a progress report's mean loss shows divergence."""
    loss = report.loss
    return loss is not None and not (math.isfinite(loss) and loss <= recovery.highest_loss)


def slower(config: Config) -> Config:
    """The configuration with a lower learning rate."""
    return config.at_rate(config.optimiser.lr * config.recovery.slower)


def divergence(report: Progress, config: Config) -> SidewaysError:
    """The error that ends this attempt; with recovery.divergence = "rollback" the launcher restarts all processes."""
    diverged = f"tick {report.tick}: the training has diverged, the loss is {report.loss:.4g}"
    if config.recovery.divergence == "rollback":
        return PeerError(f"{diverged}: rolling back, with optimiser.lr = {config.optimiser.lr:.4g}")
    return SidewaysError(
        f"{diverged}: try a smaller optimiser.lr, with {wording('--resume', 'resume=')} to continue from the last "
        f"checkpoint, or set "
        f'recovery.divergence = "rollback" to do that automatically'
    )
