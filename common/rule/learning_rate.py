"""The learning rate of a stage at a tick."""

import math

from common.config.settings import Optimiser


def rate_of_stage(settings: Optimiser, rate: float, mismatch: int) -> float:
    """The learning rate of a stage, given that of the run."""
    return rate / (1 + mismatch) if settings.lr_by_mismatch else rate


def rate_factor(settings: Optimiser, tick: int, total_ticks: int) -> float:
    """Factor of the learning rate at tick `tick` of `total_ticks`.

    After a linear warm-up: constant; cosine: half a period down to `final`; step: × `gamma` after each of `steps`;
    one-cycle: half a cosine up from `final` to 1 at `peak`, then half a cosine down to `final` (Smith, 2018).
    """
    warm = min(1.0, (tick + 1) / (settings.warmup + 1))
    share = min(1.0, max(0.0, (tick - settings.warmup) / max(1, total_ticks - settings.warmup)))
    return warm * _course(settings, share)


def _course(settings: Optimiser, share: float) -> float:
    if settings.schedule == "cosine":
        return _cosine(1.0, settings.final, share)
    if settings.schedule == "step":
        return settings.gamma ** sum(share >= step for step in settings.steps)
    if settings.schedule == "one-cycle":
        rising = share < settings.peak
        along = share / settings.peak if rising else (share - settings.peak) / (1 - settings.peak)
        return _cosine(settings.final, 1.0, along) if rising else _cosine(1.0, settings.final, along)
    return 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
