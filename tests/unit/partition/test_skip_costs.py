"""What skips between the stages of a split cost."""

import torch

from common.partition.skip_costs import skip_timer

F32 = torch.float32
OUTPUTS = [(torch.Size(shape), F32) for shape in ((2, 8, 16, 16), *[(2, 4, 8, 8)] * 3, (2, 5))]


def test_a_skip_is_sent_at_the_size_of_its_targets_input() -> None:
    (skip,) = skip_timer(OUTPUTS, torch.device("cpu"), rounds=1)([(0, 2)], [1, 1, 3])
    assert (skip.source, skip.target) == (0, 2)
    assert skip.pooling.activation_kib == 2 * 8 * 8 * 8 * 4 / 1024  # eight channels at 8 x 8
    assert skip.pooling.parameters == 0
    assert skip.projection.parameters == 8 * 4
    assert skip.projection.activation_kib == 2 * 4 * 8 * 8 * 4 / 1024
    assert skip.pooling.milliseconds > 0
    assert skip.projection.milliseconds > 0


def test_the_shapes_are_those_of_the_split() -> None:
    time_skips = skip_timer(OUTPUTS, torch.device("cpu"), rounds=1)
    assert time_skips([], [1, 1, 3]) == []
    (skip,) = time_skips([(0, 2)], [2, 1, 2])  # stage 0 now ends with the second block
    assert skip.projection.parameters == 4 * 4


def test_skips_of_the_same_shapes_are_timed_once() -> None:
    time_skips = skip_timer(OUTPUTS, torch.device("cpu"), rounds=1)
    first, second = time_skips([(1, 3), (2, 4)], [1] * 5)
    assert first.pooling is second.pooling
