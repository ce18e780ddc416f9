"""Commands for a running run."""

import pytest

from common.errors import ConfigError
from coordinator.cli.live import _rate


def test_only_the_learning_rate_can_be_set() -> None:
    assert (_rate("lr=1e-3"), _rate("optimiser.lr=0")) == (1e-3, 0.0)
    for wrong in ("seed=3", "lr", "lr=", "lr=nan", "lr=-1", "lr=inf", "=1"):
        with pytest.raises(ConfigError, match="learning rate"):
            _rate(wrong)
