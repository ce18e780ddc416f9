"""The interface of a tick loop to the reporter."""

from typing import NamedTuple, Protocol

from common.rule.stage import Stage


class Times(NamedTuple):
    """Times in seconds since the loop's counters were zeroed."""

    compute: float
    receive_wait: float
    send_wait: float
    data_wait: float


class ReportedLoop(Protocol):
    """A tick loop with statistics to report."""

    stage: Stage

    @property
    def model_cpu(self) -> float | None:
        """CPU seconds spent in the model since `clear`; None if they cannot be measured separately."""

    def times(self) -> Times:
        """Times since `clear`."""

    def compute_seconds(self) -> float:
        """Seconds in the stage's passes since `clear`, on the device that computes them. On a GPU it waits for them."""

    def bytes_sent(self) -> tuple[int, int]:
        """Bytes sent forward and backward since `clear`."""

    def clear(self) -> None:
        """Zero the counters."""
