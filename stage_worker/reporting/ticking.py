"""What a loop tells of itself to whoever reports on it."""

from typing import Any, Protocol

from common.rule.stage import Stage

Times = tuple[float, float, float, float]


class ReportedLoop(Protocol):
    """What a loop tells of itself."""

    stage: Stage

    def times(self) -> Times:
        """Seconds of compute, of waiting to receive, to send, and for data, since `clear`."""

    def summary(self) -> dict[str, Any]:
        """Seconds and bytes since `clear`."""

    def clear(self) -> None:
        """Zero the counters."""
