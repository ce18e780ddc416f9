"""The choice of an edge's transport."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import ConfigError
from common.telemetry.spans import WorkClock
from stage_worker.edges.connect import Edges
from tests.support.settings import config_of

FORM = torch.Size((2, 3)), torch.float32


def test_shared_memory_between_hosts_is_refused(tmp_path: Path) -> None:
    me, apart = SimpleNamespace(stage=0, stages=2, stages_on_host={0}), SimpleNamespace(connections={})
    config, devices = config_of(tmp_path, network__transport="shared"), (torch.device("cpu"),) * 2
    with pytest.raises(ConfigError, match="needs all stages on one host and on the CPU, but stages 0 and 1 are not"):
        Edges(config, me, apart, (FORM, FORM), devices, WorkClock())  # type: ignore[arg-type]


def test_with_gloo_neighbours_on_one_host_share_no_memory(tmp_path: Path) -> None:
    """The error for neighbours that cannot share memory suggests this setting."""
    me, groups = (
        SimpleNamespace(stage=0, stages=2, stages_on_host={0, 1}),
        SimpleNamespace(connections={}, form_backward=lambda: None),
    )
    config, devices = config_of(tmp_path, network__transport="gloo"), (torch.device("cpu"),) * 2
    Edges(config, me, groups, (FORM, FORM), devices, WorkClock())  # type: ignore[arg-type]
    assert not groups.connections
