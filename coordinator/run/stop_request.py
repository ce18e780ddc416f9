"""A request to stop: a signal to the launcher, to this process or to a stage."""

import time
from types import FrameType

from common.processes.lifecycle import exit_now, print_error

_IMPATIENT = 2.0  # seconds after which another signal counts as a second one


class StopRequest:
    """A request to stop; a second signal ends the process at once.

    Attributes:
        final: by `sideways stop`: where others watch over the processes, they are not to start them again.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.final = False
        self._since = 0.0

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler, and called when a stage was sent a signal; `frame` is None then.

        One wish may come several times: from the terminal, the launcher, a scheduler.
        """
        if self.signal and frame is not None and time.monotonic() > self._since + _IMPATIENT:
            print_error("stopped at once, a second signal came; what was not saved yet is not kept")
            exit_now(128 + number)
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
