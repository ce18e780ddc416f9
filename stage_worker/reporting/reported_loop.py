"""What the reporter needs of a tick loop."""

from typing import NamedTuple, Protocol

from common.rule.stage import Stage


class Times(NamedTuple):
    """Seconds since the loop's counters were zeroed."""

    compute: float
    receive_wait: float
    send_wait: float
    data_wait: float


class ReportedLoop(Protocol):
    """A loop that ticks."""

    stage: Stage

    @property
    def model_cpu(self) -> float | None:
        """Seconds of CPU in the model since `clear`; None where they cannot be told from others."""

    def times(self) -> Times:
        """Where the time went since `clear`."""

    def bytes_sent(self) -> tuple[int, int]:
        """Forward and backward since `clear`."""

    def clear(self) -> None:
        """Zero the counters."""
