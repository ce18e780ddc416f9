"""What it takes torch to know of the settings: asked before any process of a run starts."""

from common.config.settings import Config
from common.processes.interpreter import quiet_torch


def check_with_torch(config: Config) -> None:
    """Raise ConfigError if the optimiser is unknown, or as `check_model_depth`."""
    check_model_depth(config)
    from common.rule.optimiser import optimiser_class

    optimiser_class(config.optimiser.name)


def check_model_depth(config: Config) -> None:
    """Raise ConfigError if a model of the zoo cannot be divided among the stages; the coordinator checks the others."""
    quiet_torch()
    from common.models import count_blocks  # torch takes seconds to import
    from common.partition.balance import check_depth

    blocks = count_blocks(config)
    if blocks is not None:
        check_depth(config, blocks)
