"""Measuring peak memory."""

import torch

from common.telemetry.peak_memory import peak, reset_peak

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_peak_counts_later_allocations_and_survives_their_release() -> None:
    early = torch.ones(60 * MIB, dtype=torch.uint8)
    before = reset_peak(CPU)
    assert peak(CPU, before) < 20 * MIB
    late = torch.ones(100 * MIB, dtype=torch.uint8)
    assert 90 * MIB < peak(CPU, before) < 130 * MIB
    del late
    assert peak(CPU, before) > 90 * MIB
    del early


def test_memory_freed_before_does_not_hide_later_allocations() -> None:
    blocks = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(1000)]  # below the size for which glibc uses mmap
    del blocks
    before = reset_peak(CPU)
    again = [torch.ones(64 * 1024, dtype=torch.uint8) for _ in range(1000)]
    assert peak(CPU, before) > 40 * MIB
    del again
