"""A request to stop: a signal to the launcher, to this process or to a stage."""

import time
from types import FrameType

from common.processes.output import exit_now, print_error

_SECOND_SIGNAL_AFTER = 2.0  # seconds; an earlier signal counts as a repetition of the first


class StopRequest:
    """A request to stop; a second signal ends the process at once.

    Attributes:
        final: whether it came from `sideways stop`: a supervisor must not start the processes again then.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.final = False
        self._since = 0.0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler; also called, with `frame` None, when a stage received a signal.

        One request may arrive several times: from the terminal, the launcher, a scheduler.
        """
        if self.signal and frame is not None and time.monotonic() > self._since + _SECOND_SIGNAL_AFTER:
            print_error("stopped at once by a second signal: what was not saved yet is lost")
            exit_now(128 + number)
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
