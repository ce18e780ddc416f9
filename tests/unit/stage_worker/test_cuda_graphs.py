"""Which stages get a recorder of CUDA graphs. The recorder itself needs a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.config.settings import Config
from common.errors import ConfigError
from common.models import build
from stage_worker import cuda_graphs
from stage_worker.cuda_graphs import CudaGraphs, recorder_of
from tests.support.settings import config_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def recorder(folder: Path, device: torch.device, **changes: Any) -> object:
    config = config_of(folder, **changes)
    return recorder_of(config, blocks(config), device, 1, config.replicas)


def blocks(config: Config) -> nn.Module:
    return build(config, 3)


def test_without_the_setting_or_a_gpu_there_is_none(tmp_path: Path) -> None:
    assert recorder(tmp_path, GPU) is None
    assert recorder(tmp_path, CPU, graph="auto") is None


def test_auto_names_what_stands_against_it_and_true_refuses_it(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="stage 1: no graphs with rule.every above 1"):
        assert recorder(tmp_path, GPU, graph="auto", rule__every=2) is None
    with pytest.raises(ConfigError, match=r'graph = true cannot be with rule.every above 1: .* "auto" or false'):
        recorder(tmp_path, GPU, graph=True, rule__every=2)
    with pytest.raises(ConfigError, match='graph = true cannot be with device = "cpu"'):
        recorder(tmp_path, CPU, graph=True)


def test_otherwise_it_records_cuda_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr(cuda_graphs, "CudaGraphs", made.append)
    recorder(tmp_path, GPU, graph=True)
    assert made == [GPU]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graphs_random_numbers_are_those_of_the_seed() -> None:
    found = CudaGraphs(GPU)
    x, y = torch.ones(1000, device=GPU), torch.empty(1000, device=GPU)

    def work() -> None:
        y.copy_(nn.functional.dropout(x))

    replay = found.record(work)
    for seed in (3, 4, 3):
        found.seed(seed)
        replay()
        torch.cuda.manual_seed(seed)
        assert torch.equal(y, nn.functional.dropout(x))
