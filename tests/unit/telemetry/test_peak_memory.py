"""The most memory that was needed."""

import torch

from common.telemetry.peak_memory import peak, reset_peak

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_peak_is_of_what_came_after_and_stays_after_it_is_freed() -> None:
    early = torch.ones(60 * MIB, dtype=torch.uint8)
    before = reset_peak(CPU)
    assert peak(CPU, before) < 20 * MIB
    late = torch.ones(100 * MIB, dtype=torch.uint8)
    assert 90 * MIB < peak(CPU, before) < 130 * MIB
    del late
    assert peak(CPU, before) > 90 * MIB
    del early


def test_what_was_freed_before_hides_nothing() -> None:
    blocks = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(1000)]  # below the size that glibc maps
    del blocks
    before = reset_peak(CPU)
    again = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(1000)]
    assert peak(CPU, before) > 40 * MIB
    del again
