"""What the host sends to a device stays as it was sent."""

import numpy as np
import torch

from common.rule.host_values import HostValues


def test_on_the_cpu_nothing_is_copied() -> None:
    values = np.arange(3)
    assert HostValues().on(torch.device("cpu"), values).data_ptr() == values.ctypes.data


def test_what_is_sent_may_be_overwritten_on_the_host_for_some_ticks() -> None:
    """`meta` stands for a GPU that reads late: what it would read is in the pinned buffers."""
    sender, values = HostValues(), np.zeros(3, np.int64)
    for tick in range(6):
        values[:] = tick
        sender.on(torch.device("meta"), values)
    assert sorted(int(buffer[0]) for buffer in sender._buffers) == [2, 3, 4, 5]
    sender.on(torch.device("meta"), np.zeros(5, np.int64))
    assert sender._buffers[0].shape == (5,)
