"""The choice of an edge's transport."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import ConfigError
from common.rule.schedule import Schedule
from common.telemetry.spans import WorkClock
from stage_worker.edges.connect import Edges
from stage_worker.edges.links import links_of
from tests.support.settings import config_of

SPEC = torch.Size((2, 3)), torch.float32


def edges(folder: Path, transport: str, on_host: set[int], groups: Any) -> Edges:
    """Of stage 0 of 2, on the CPU, with the transport chosen."""
    me: Any = SimpleNamespace(stage=0, stages=2, stages_on_host=on_host, held=range(1), stages_each=1)
    config = config_of(folder, network__transport=transport)
    links = links_of(0, Schedule(2), [], [SPEC])
    found = Edges(config, me, links, torch.device("cpu"), WorkClock())
    found.choose(groups, {0: None, 1: None})
    return found


def test_shared_memory_between_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs all stages on one host, .*, but stages 0 and 1 are not"):
        edges(tmp_path, "shared", {0}, SimpleNamespace(connections={}, run=0))


def test_with_gloo_neighbours_on_one_host_share_no_memory(tmp_path: Path) -> None:
    """The error for neighbours that cannot share memory suggests this setting."""
    groups = SimpleNamespace(connections={}, run=0, form_backward=lambda: None)
    edges(tmp_path, "gloo", {0, 1}, groups)
    assert not groups.connections
