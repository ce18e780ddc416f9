"""What an assembly refuses before it connects to anybody."""

import pytest
import torch

from common.config.run_file import parse
from common.errors import ConfigError
from common.messages.stage_calls import Plan
from stage_worker.assembly import Assembly
from tests.support import members


def test_exact_pipelines_on_shared_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    data = {"train": ".", "slots": 4}
    config = parse(
        {"ticks": 1, "stages": 4, "algorithm": "1f1b", "threads": torch.get_num_threads(), "data": data}, "test"
    )
    with pytest.raises(ConfigError, match=r"on CUDA uses NCCL.*give each stage a device"):
        Assembly(Plan(config, 2, (2, 2, 2, 2), 1), members.stage(0, stages=4), None, None)
