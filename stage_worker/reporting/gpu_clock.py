"""Time that a GPU spends on a stage's passes. On the host only their launch could be timed."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

_SAMPLES = 3 * 64  # of the passes of a tick: forward, backward, update


class TimingEvent(Protocol):
    """A point in a stream, such as torch.cuda.Event(enable_timing=True)."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any, /) -> float: ...


def _event() -> TimingEvent:
    return torch.cuda.Event(enable_timing=True)


class GpuClock:
    """Times the first passes since `clear` by events, and takes the others to be as long. Allocates nothing later."""

    def __init__(self, event: Callable[[], TimingEvent] = _event, samples: int = _SAMPLES) -> None:
        self._pairs = [(event(), event()) for _ in range(samples)]
        self._passes = 0

    def begin(self) -> None:
        """A pass is launched next."""
        if self._passes < len(self._pairs):
            self._pairs[self._passes][0].record()

    def end(self) -> None:
        """It was launched."""
        if self._passes < len(self._pairs):
            self._pairs[self._passes][1].record()
        self._passes += 1

    def seconds(self) -> float:
        """Seconds that all passes took since `clear`. Waits for the timed ones."""
        timed = self._pairs[: self._passes]
        if not timed:
            return 0.0
        timed[-1][1].synchronize()
        return sum(start.elapsed_time(end) for start, end in timed) * 1e-3 * self._passes / len(timed)

    def clear(self) -> None:
        """Reset the clock."""
        self._passes = 0
