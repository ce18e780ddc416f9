"""What jitters colours, if that is left to the product."""

from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from common.config.run_file import parse
from common.processes.membership import Member, Membership
from coordinator.run.setup.colour_jitter import with_jitter

DATA = {"train": ".", "slots": 4, "hue": 0.1}


def chosen(devices: list[int], **changes: Any) -> str:
    members = Member("coordinator"), *(Member("stage", devices=count) for count in devices)
    config = parse({"ticks": 1, "stages": 2, "data": DATA, **changes}, "test")
    return with_jitter(config, Membership(0, members, HashStore())).data.jitter


@pytest.mark.parametrize(
    ("devices", "changes", "expected"),
    [
        ([1, 1], {}, "stages"),
        ([0, 0], {}, "decoders"),
        ([1, 0], {}, "decoders"),
        ([1, 1], {"device": "cpu"}, "decoders"),
        ([1, 1], {"task": "autoencode", "model": "autoencoder"}, "decoders"),
        ([1, 1], {"data": {"train": ".", "slots": 4, "contrast": 0.1, "channels": 1, "bits": 16}}, "decoders"),
        ([1, 1], {"data": {**DATA, "jitter": "decoders"}}, "decoders"),
        ([0, 0], {"data": {**DATA, "jitter": "stages"}}, "stages"),
    ],
)
def test_the_first_stage_does_where_it_can_on_a_gpu(devices: list[int], changes: dict[str, Any], expected: str) -> None:
    assert chosen(devices, **changes) == expected
